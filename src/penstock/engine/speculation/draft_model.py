"""Drafts by a smaller model of the same vocabulary.

It has a KV cache of its own with as many blocks as the model's, and uses the model's block tables: what a table holds
for the one it holds for the other. But the two don't write at the same times, and a block may be exchanged for another
of the same tokens that only the model has filled; so each sequence remembers what was fed for it into which blocks, and
what doesn't hold any more is fed again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import TYPE_CHECKING

from penstock.core.errors import ConfigError
from penstock.engine.types import SequenceStep, StepBatch

if TYPE_CHECKING:
    from collections.abc import Sequence as Tokens

    from penstock.engine.runners.base import ModelRunner
    from penstock.engine.sequence import Sequence
    from penstock.engine.types import SampleSpec
    from penstock.models.vocabulary import Vocabulary

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Fed:
    """What the draft model has computed of a sequence."""

    tokens: list[int] = field(default_factory=list)
    table: list[int] = field(default_factory=list)
    sure: int = 0  # of the tokens: those that the sequence held when they were fed, drafts not counted

    def holds(self, sequence: Sequence, block_size: int) -> int:
        """How many of the sequence's tokens, from the first on, need not be fed again."""
        same = _alike(self.table, sequence.block_table)
        reached = min(len(self.tokens), sequence.num_tokens, same * block_size)
        if reached <= self.sure:
            return reached
        return self.sure + _alike(self.tokens[self.sure : reached], sequence.tokens(self.sure, reached))


def _alike(one: list[int], other: list[int]) -> int:
    """How many items, from the first on, the lists have in common."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


@dataclass(frozen=True, slots=True)
class Asked:
    """Drafts wanted for a sequence, whose table has the blocks for them."""

    sequence: Sequence
    fed: Fed
    sample: SampleSpec  # how the model will choose the first of them
    count: int


class DraftModel:
    """Runs the smaller model for the sequences that ask for drafts, all of them in each of its steps.

    It samples as the model does, with the same random numbers, so that where both have much the same distribution they
    choose the same token even at high temperatures.

    Args:
        runner: loaded, with a KV cache as large as the model's.
        block_size: tokens.
        vocab_size: of the model's scores; drafts beyond it are none.
        catch_up: tokens of texts it hasn't seen yet that it may compute in one step.
    """

    def __init__(self, runner: ModelRunner, *, block_size: int, vocab_size: int, catch_up: int) -> None:
        self.runner = runner
        self._block_size = block_size
        self._vocab_size = vocab_size
        self._catch_up = catch_up

    def draft(self, asked: Tokens[Asked]) -> list[list[int]]:
        """For each up to `count` drafts; none for those whose text it has to catch up with first."""
        drafts: list[list[int]] = [[] for _ in asked]
        left = self._catch_up
        steps: dict[int, SequenceStep] = {}
        for index, want in enumerate(asked):
            step = self._first(want, left)
            if step is not None:
                left -= len(step.token_ids)
                steps[index] = step
        while steps:
            outputs = self.runner.execute(StepBatch(list(steps.values()))).sequences
            done, steps = steps, {}
            for (index, step), output in zip(done.items(), outputs, strict=True):
                want, guesses = asked[index], drafts[index]
                want.fed.tokens[step.start :] = step.token_ids
                if output.error is not None or output.token_id is None or output.token_id >= self._vocab_size:
                    continue
                guesses.append(output.token_id)
                if len(guesses) < want.count:
                    steps[index] = self._next(want, guesses)
        return drafts

    def _first(self, want: Asked, left: int) -> SequenceStep | None:
        """What of the sequence hasn't been fed, as far as `left` tokens go; with a sample if that is all."""
        sequence, fed = want.sequence, want.fed
        start = min(fed.holds(sequence, self._block_size), sequence.num_tokens - 1)
        end = min(sequence.num_tokens, start + left)
        if start >= end:
            return None
        fed.table = list(sequence.block_table)
        fed.sure = end
        return SequenceStep(
            request_id=sequence.request_id,
            token_ids=sequence.tokens(start, end),
            start=start,
            block_table=sequence.block_table,
            sample=want.sample if end == sequence.num_tokens else None,
        )

    def _next(self, want: Asked, guesses: list[int]) -> SequenceStep:
        outputs = [*want.sequence.output_token_ids, *guesses]
        return SequenceStep(
            request_id=want.sequence.request_id,
            token_ids=guesses[-1:],
            start=want.sequence.num_tokens + len(guesses) - 1,
            block_table=want.sequence.block_table,
            sample=replace(want.sample, output_token_ids=outputs, allowed=None),
        )


def check_vocabulary(own: Vocabulary, of_model: Vocabulary, size: int) -> None:
    """Raises ConfigError unless a draft model's first `size` tokens are the model's."""
    other = next((i for i in range(size) if own.pieces.data(i) != of_model.pieces.data(i)), None)
    if other is not None:
        raise ConfigError(
            f"The draft model has another vocabulary than the model: token {other} is {own.pieces.data(other)!r} in "
            f"one and {of_model.pieces.data(other)!r} in the other. Take a smaller model of the same family.",
            param="draft_model",
        )
