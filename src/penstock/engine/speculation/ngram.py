"""Drafts by looking up: what followed the last tokens where they stood before.

Prompt lookup decoding (Saxena, 2023, https://github.com/apoorvumang/prompt-lookup-decoding): summaries quote their
source and edits repeat most of it, so the continuation of an earlier occurrence is often the continuation now. Costs no
model, and a dictionary look-up a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.engine.sequence import Sequence

_SIZE = 3  # tokens that must agree: two often do by chance, four find copies later


class NgramIndex:
    """Where each run of `_SIZE` tokens of a sequence ended last, the newest run excepted.

    Args:
        sequence: read as it grows.
    """

    def __init__(self, sequence: Sequence) -> None:
        self._sequence = sequence
        self._ends: dict[tuple[int, ...], int] = {}
        self._seen = 0  # runs that end before this position are known

    def draft(self, count: int) -> list[int]:
        """The `count` tokens that followed the last time, over and over if they are fewer; none the first time."""
        sequence = self._sequence
        known = sequence.num_tokens
        if known <= _SIZE:
            return []
        start = max(self._seen, _SIZE)
        if start < known:
            tokens = sequence.tokens(start - _SIZE, known)
            for end in range(start, known):
                run = tuple(tokens[end - start : end - start + _SIZE])
                self._ends[run] = end
            self._seen = known
        found = self._ends.get(tuple(sequence.tokens(known - _SIZE, known)))
        if found is None:
            return []
        followed = sequence.tokens(found, min(found + count, known))
        return [followed[i % len(followed)] for i in range(count)]
