"""Drafts by looking up: what followed the last tokens where they stood before.

Prompt lookup decoding (Saxena, 2023, https://github.com/apoorvumang/prompt-lookup-decoding): summaries quote their
source and edits repeat most of it, so the continuation of an earlier occurrence is often the continuation now. Costs no
model, and a search through the sequence a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.engine.sequence import Sequence

_SIZE = 3  # tokens that must agree: two often do by chance, four find copies later


class NgramIndex:
    """Where the last `_SIZE` tokens of a sequence stood before, the last time.

    The sequence is kept as text, a character a token. A dictionary of all runs would answer at once, but to fill it for
    a long prompt takes tens of milliseconds of one step that others wait for, and fifty times the memory. A string is
    made and searched at memory's pace, and a match can't begin within a token.

    Args:
        sequence: read as it grows; its token ids are below 0x110000, as all vocabularies' are.
    """

    def __init__(self, sequence: Sequence) -> None:
        self._sequence = sequence
        self._text = ""

    def draft(self, count: int) -> list[int]:
        """The `count` tokens that followed the last time, over and over if they are fewer; none the first time."""
        sequence = self._sequence
        known = sequence.num_tokens
        if known <= _SIZE:
            return []
        self._text += "".join(map(chr, sequence.tokens(len(self._text), known)))
        found = self._text.rfind(self._text[-_SIZE:], 0, known - 1)
        if found < 0:
            return []
        followed = sequence.tokens(found + _SIZE, min(found + _SIZE + count, known))
        return [followed[i % len(followed)] for i in range(count)]
