"""Decides for the decodes of a step what to guess, and how far."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError
from penstock.engine.speculation.draft_model import Asked, Fed
from penstock.engine.speculation.governor import Governor
from penstock.engine.speculation.ngram import NgramIndex
from penstock.engine.types import Sampled

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Sequence as Several

    from penstock.engine.runners.base import DraftCost
    from penstock.engine.sequence import Sequence
    from penstock.engine.speculation.draft_model import DraftModel
    from penstock.engine.types import SampleSpec, SequenceOutput, SequenceStep, Speculation

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Drafting:
    """What is kept for a sequence that is drafted for."""

    sequence: Sequence
    governor: Governor
    index: NgramIndex | None  # None: the draft model drafts
    fed: Fed = field(default_factory=Fed)


@dataclass(frozen=True, slots=True)
class Decode:
    """A sequence that computes its newest token in the step, and how the next is chosen."""

    drafting: Drafting
    sample: SampleSpec
    most: int  # drafts that the request has room for


class Speculator:
    """Drafts tokens for sequences, and learns from what became of them.

    The model chooses each token as it would without drafts, with the same random number; a draft only lets the next
    choice be made in the same step, if it is what was chosen. So text and distribution are those without drafts. (A
    special case of Leviathan et al., ICML 2023, https://arxiv.org/abs/2211.17192, where the draft is certain of its
    token, and is accepted with the probability that the model gives it.)

    Args:
        cost: of drafts on this device.
        default: for requests that don't say.
        draft_model: None without one.
        draft_model_cost: one of its steps, as a share of one of the model's.
    """

    def __init__(
        self,
        cost: DraftCost,
        default: Speculation | None,
        draft_model: DraftModel | None = None,
        draft_model_cost: float = 0.0,
    ) -> None:
        self._row_cost = cost.row
        self._draft_model = draft_model
        self._draft_model_cost = draft_model_cost
        exact: Speculation = "ngram" if cost.exact else "off"
        self._default: Speculation = default or ("draft" if draft_model is not None else exact)
        self.drafted = 0  # in all
        self.accepted = 0

    def open(self, sequence: Sequence, wanted: Speculation | None) -> Drafting | None:
        """For a new sequence; None if nothing is to be drafted.

        Raises InvalidRequestError if it is to be drafted by a model that isn't there.
        """
        method = wanted or self._default
        if method == "off":
            return None
        if method == "ngram":
            return Drafting(sequence, Governor(self._row_cost), NgramIndex(sequence))
        if self._draft_model is None:
            raise InvalidRequestError(
                'This server has no draft model; \'speculation\' may be "ngram" or "off".', param="speculation"
            )
        return Drafting(sequence, Governor(self._row_cost, self._draft_model_cost), None)

    def draft(
        self, decodes: Several[Decode | None], room: int, reserve: Callable[[Sequence, int], int]
    ) -> list[list[int]]:
        """For each sequence of a step of decodes its drafts; none for those that are None.

        Args:
            decodes: in the step's order.
            room: drafts for which the step has room.
            reserve: takes blocks for so many tokens more; gives how many there is room for.
        """
        drafts: list[list[int]] = [[] for _ in decodes]
        asked: dict[int, Asked] = {}
        for at, decode in enumerate(decodes):
            if decode is None or room <= 0:
                continue
            drafting = decode.drafting
            if drafting.index is None and self._draft_model is None:
                continue  # it has failed meanwhile: no blocks for drafts that nobody makes
            count = min(drafting.governor.drafts(len(decodes)), decode.most, room)
            guesses = drafting.index.draft(count) if drafting.index is not None and count > 0 else []
            if drafting.index is not None and not guesses:
                continue
            count = reserve(drafting.sequence, count) if count > 0 else 0
            room -= count
            drafts[at] = guesses[:count]
            if drafting.index is None and count > 0:
                asked[at] = Asked(drafting.sequence, drafting.fed, decode.sample, count)
        if asked:
            for at, guesses in zip(asked, self._ask(list(asked.values())), strict=True):
                drafts[at] = guesses
        return drafts

    def learn(self, drafting: Drafting, drafted: int, accepted: int) -> None:
        """Of `drafted` tokens the first `accepted` were what the model chose."""
        drafting.governor.learn(drafted, accepted)
        self.drafted += drafted
        self.accepted += accepted

    def close(self) -> None:
        """End the draft model."""
        if self._draft_model is not None:
            self._draft_model.runner.shutdown()

    def _ask(self, asked: list[Asked]) -> list[list[int]]:
        nothing: list[list[int]] = [[] for _ in asked]
        if self._draft_model is None:
            return nothing
        try:
            return self._draft_model.draft(asked)
        except Exception:
            log.exception("the draft model failed; it drafts no more")
            self.close()
            self._draft_model = None
            self._default = "off"
            return nothing


def chosen_by(share: SequenceStep, result: SequenceOutput) -> list[Sampled]:
    """The tokens that a step yields: what was chosen as long as it is what had been drafted, and one more."""
    if result.token_id is None:
        return []
    choices = [Sampled(result.token_id, result.logprobs), *result.after_drafts]
    drafts = share.token_ids[len(share.token_ids) - len(share.drafts) :]
    right = 0
    while right < len(drafts) and choices[right].token_id == drafts[right]:
        right += 1
    return choices[: right + 1]
