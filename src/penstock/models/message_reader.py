"""From a model's text to the parts of its message: what it thought, what it says, what it calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.models.message_parts import Content

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.models.message_parts import Part
    from penstock.models.thinking import ThinkingParser, ThinkingTracker
    from penstock.models.token_pieces import TokenPieces
    from penstock.models.tool_formats.parser import ToolCallParser


class MessageReader:
    """Reads one answer. Feed it each delta, then `finish` it; the parts come in the order of the text.

    Args:
        pieces: the vocabulary's, to count the tokens of thinking.
        thinking: None for a model, or an answer, without.
        tracker: goes with `thinking`.
        tools: None where nothing may be called.
    """

    def __init__(
        self,
        pieces: TokenPieces,
        *,
        thinking: ThinkingParser | None = None,
        tracker: ThinkingTracker | None = None,
        tools: ToolCallParser | None = None,
    ) -> None:
        self._pieces = pieces
        self._thinking = thinking
        self._tracker = tracker
        self._tools = tools

    def push(self, text: str, token_ids: Sequence[int] = ()) -> list[Part]:
        """What a delta adds. Its tokens are for counting alone and need not line up with its text."""
        if self._tracker is not None and token_ids:
            for token_id in token_ids:
                self._tracker.push(self._pieces[token_id].data)
        if not text:
            return []
        if self._thinking is None:
            return self._called(text)
        return self._with_calls(self._thinking.push(text))

    def finish(self) -> list[Part]:
        """What was held back, now that no more text will come."""
        parts = [] if self._thinking is None else self._with_calls(self._thinking.finish())
        return parts if self._tools is None else [*parts, *self._tools.finish()]

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of thinking so far, tags left out."""
        return 0 if self._tracker is None else self._tracker.tokens

    @property
    def calls(self) -> int:
        """Tool calls begun so far."""
        return 0 if self._tools is None else self._tools.calls

    def _with_calls(self, parts: list[Part]) -> list[Part]:
        if self._tools is None:
            return parts
        read: list[Part] = []
        for part in parts:
            read += self._called(part.text) if isinstance(part, Content) else [part]
        return read

    def _called(self, text: str) -> list[Part]:
        return [Content(text)] if self._tools is None else self._tools.push(text)
