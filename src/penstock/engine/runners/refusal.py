"""What no runner can compute, told before anything is: such a sequence fails alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.engine.types import SequenceStep

NOT_FINITE = "the model computed values that are not finite for this request"
NOTHING_TO_CHOOSE = "the model's scores or the sampling parameters leave no token to choose"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a loaded model with its KV cache takes."""

    vocab_size: int
    positions: int  # of the longest sequence
    num_blocks: int
    block_size: int  # tokens

    def blocks(self, s: SequenceStep) -> int:
        """Blocks that the sequence's positions reach into, from the first on."""
        return -(-(s.start + len(s.token_ids)) // self.block_size)


def refusal(s: SequenceStep, limits: Limits) -> str | None:
    """What makes this sequence impossible to compute, as a sentence; None if nothing does."""
    count, vocab = len(s.token_ids), limits.vocab_size
    if count == 0 or s.start < 0 or s.start + count > limits.positions:
        return (
            f"positions {s.start} to {s.start + count - 1} are not a part of the {limits.positions} "
            "this model was loaded for"
        )
    if min(s.token_ids) < 0 or max(s.token_ids) >= vocab:
        return f"a token id lies outside of the vocabulary of {vocab}"
    if s.next_prompt_ids and (
        len(s.next_prompt_ids) > count or min(s.next_prompt_ids) < 0 or max(s.next_prompt_ids) >= vocab
    ):
        return f"the prompt to be scored does not fit its {count} positions or the vocabulary"
    table = s.block_table[: limits.blocks(s)]
    if len(table) < limits.blocks(s) or min(table) < 0 or max(table) >= limits.num_blocks:
        return "its block table does not cover its positions with blocks of this cache"
    return None
