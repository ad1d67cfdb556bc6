"""When requests of the background may run: those of a priority number of `BACKGROUND_PRIORITY` or more.

What: they run in steps that nobody else needs. While another request waits or its prompt is being computed, they sit
    steps out, with their blocks; while others only decode, they take part in every `_TRICKLE`-th step, so that a busy
    server still gets on with them. Their prompts go in small pieces even when nothing else runs, since whoever comes
    next waits for the step that is running.
Inputs: what waits and what runs, before each step.
Config: none.
Trade-offs: a server whose queue never empties never runs them; a long prompt of theirs takes longer than it could.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.engine.types import BACKGROUND_PRIORITY

if TYPE_CHECKING:
    from penstock.engine.sequence import Sequence

_TRICKLE = 8  # steps


def is_background(sequence: Sequence) -> bool:
    """Whether it runs only while nothing else has to."""
    return sequence.priority >= BACKGROUND_PRIORITY


class BackgroundPace:
    """Says, each step, whether the background takes part in it."""

    def __init__(self) -> None:
        self._since = 0  # steps that the background has sat out

    def holds(self, waiting: list[Sequence], running: list[Sequence]) -> bool:
        """Whether the background sits the next step out; both queues are in the order of their ranks."""
        if not any(queue and is_background(queue[-1]) for queue in (waiting, running)):
            return False
        others = [sequence for sequence in running if not is_background(sequence)]
        foreground_waits = bool(waiting) and not is_background(waiting[0])
        if foreground_waits or not all(sequence.is_decoding for sequence in others):
            held = True
        else:
            held = bool(others) and self._since + 1 < _TRICKLE
        self._since = self._since + 1 if held else 0
        return held
