"""How long a model may think: its tokens are counted, and when they are used up the end of thinking is forced."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

from penstock.models.thinking import ThinkingTags, ThinkingTracker

if TYPE_CHECKING:
    from penstock.engine.types import ThinkingLimit
    from penstock.models.token_pieces import TokenPieces


class ThinkingBudget:
    """One sequence's. Between characters only, since what follows must be text: at most three tokens late.

    Args:
        limit: how much, and how the model marks its thinking.
        pieces: the vocabulary's.
    """

    def __init__(self, limit: ThinkingLimit, pieces: TokenPieces) -> None:
        self._limit = limit
        self._pieces = pieces
        self._tracker = ThinkingTracker(ThinkingTags(limit.begin, limit.end), begun=limit.begun)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._forced: list[int] = []  # in reverse
        self._check()

    @property
    def mask(self) -> bytes | None:
        """The only token that may come next, as `SampleSpec.allowed`; None where the model is free."""
        if not self._forced:
            return None
        token = self._forced[-1]
        bits = bytearray(token // 8 + 1)
        bits[-1] = 1 << token % 8
        return bytes(bits)

    @property
    def room(self) -> int | None:
        """So many tokens may come before any is forced; None: as many as like."""
        if self._forced:
            return 0
        if self._tracker.over:
            return None
        return max(self._limit.tokens - self._tracker.tokens, 0)

    def push(self, token_id: int) -> None:
        """This token was generated."""
        if self._forced:
            self._forced.pop()
        data = self._pieces[token_id].data
        self._tracker.push(data)
        self._decoder.decode(data)
        self._check()

    def _check(self) -> None:
        spent = self._tracker.open and self._tracker.tokens >= self._limit.tokens
        if spent and not self._forced and not self._decoder.getstate()[0]:
            self._forced = [*reversed(self._rest_of_end())]

    def _rest_of_end(self) -> tuple[int, ...]:
        """The tokens of the tag without those that the model has just said by itself."""
        end, said = self._limit.end_token_ids, self._tracker.closing
        for count, token_id in enumerate(end):
            if said <= 0:
                return end[count:] if said == 0 else end
            said -= len(self._pieces[token_id].data)
        return end
