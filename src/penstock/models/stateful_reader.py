"""Reads text that comes bit by bit, by states that hold back what may yet mean something else."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.models.message_parts import Part


class StatefulReader:
    """Feed it text as it comes.

    Each state takes what it can from `_held`, adds the parts that it found, and says whether the next state should look
    at the rest.

    Args:
        state: the first.
    """

    def __init__(self, state: Callable[[list[Part]], bool]) -> None:
        self._held = ""
        self._state = state

    def push(self, text: str) -> list[Part]:
        """The parts that this text completes."""
        self._held += text
        parts: list[Part] = []
        while self._held and self._state(parts):
            pass
        return parts
