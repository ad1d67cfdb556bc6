"""One sequence's drafts: what to guess, and how far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.engine.speculation.governor import Governor
from penstock.engine.speculation.ngram import NgramIndex

if TYPE_CHECKING:
    from penstock.engine.sequence import Sequence


class Drafting:
    """Drafts tokens for a sequence, and learns from what became of them.

    The model chooses each token as it would without drafts, with the same random number; a draft only lets the next
    choice be made in the same step, if it is what was chosen. So text and distribution are those without drafts
    (a special case of Leviathan et al., ICML 2023, https://arxiv.org/abs/2211.17192, where the draft is certain of its
    token, and accepted with the probability that the model gives it).

    Args:
        sequence: for which.
        row_cost: of one more row in a step, as a share of a step of one row.
    """

    def __init__(self, sequence: Sequence, row_cost: float) -> None:
        self._index = NgramIndex(sequence)
        self._governor = Governor(row_cost)

    def draft(self, decoding: int) -> list[int]:
        """Guesses at the next tokens, in a step of `decoding` sequences; none if they are unlikely to pay."""
        count = self._governor.drafts(decoding)
        return self._index.draft(count) if count else []

    def learn(self, drafted: int, accepted: int) -> None:
        """Of `drafted` tokens the first `accepted` were what the model chose."""
        self._governor.learn(drafted, accepted)
