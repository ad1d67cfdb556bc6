"""How many prompt tokens a step may compute, and who gets them: the scheduler's third pass, foreseen by its second."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.engine.sequence import Sequence


class PrefillBudget:
    """What a step may compute of prompts, as it is dealt out in rank order.

    Args:
        tokens: how many, at the beginning of a prompt.
        span: a token with that many before it counts as two, one with twice that many as three; None: always as one.
    """

    def __init__(self, tokens: int, span: int | None) -> None:
        self.left = tokens
        self._span = span

    def take(self, start: int, tokens: int) -> int:
        """How many of the `tokens` that come after `start` others are granted: at least one while any are left."""
        if self._span is None:
            granted = cost = min(tokens, self.left)
        else:
            each = self._span + start
            granted = min(tokens, max(min(1, self.left), self.left * self._span // each))
            # Who gets less than it could use takes the rest: too little for one of its tokens is no use to others.
            cost = min(self.left, granted * each // self._span) if granted == tokens else self.left
        self.left -= cost
        return granted


class PrefillShares:
    """A step's prefill tokens as they will be dealt, in rank order, while sequences are admitted in that order."""

    def __init__(self, budget: PrefillBudget, running: list[Sequence]) -> None:
        self._budget = budget
        self._prefilling = [sequence for sequence in running if not sequence.is_decoding]
        self._next = 0

    def left_for(self, sequence: Sequence) -> int:
        """Tokens left when `sequence`'s turn comes; it ranks below all it was asked for before."""
        while self._next < len(self._prefilling) and self._prefilling[self._next].rank < sequence.rank:
            self.take(self._prefilling[self._next])
            self._next += 1
        return self._budget.left

    def take(self, sequence: Sequence) -> None:
        """It was admitted, or runs already."""
        self._budget.take(sequence.num_computed_tokens, sequence.num_tokens - sequence.num_computed_tokens)
