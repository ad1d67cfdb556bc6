"""What a workload asks for, before it is anybody's HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

Message = dict[str, str]  # {"role": ..., "content": ...}


@dataclass(frozen=True, slots=True)
class Turn:
    """A later turn of a conversation: what is said once the answer before is there."""

    text: str
    max_tokens: int
    think: float = 0.0  # seconds from the answer's end until it is due


@dataclass(frozen=True, slots=True)
class Planned:
    """One request, or the first of a conversation.

    `prompt` is text, token ids (for engines that take them), or chat messages. An endpoint spoken to as chat turns text
    into one user message; one spoken to as completions refuses messages.
    """

    prompt: str | list[int] | list[Message]
    max_tokens: int  # output tokens wanted
    due: float | None = None  # seconds after the run's start; None: as soon as one before it has ended
    prompt_tokens: int | None = None  # as the workload meant it; None: unknown
    exact: bool = True  # ask for exactly `max_tokens`, the end of text ignored, where the engine can
    extra: Mapping[str, Any] = field(default_factory=dict)  # further fields of the body
    turns: tuple[Turn, ...] = ()
