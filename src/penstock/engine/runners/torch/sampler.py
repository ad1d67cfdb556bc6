"""Chooses each sequence's next token. The order of operations and their meaning are vLLM's:

a grammar's mask, logit bias and bans, penalties, then (unless greedy) temperature, min-p, top-k, top-p. Log
probabilities are those of the raw logits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from penstock.engine.runners.randomness import uniform
from penstock.engine.runners.refusal import NOTHING_TO_CHOOSE
from penstock.engine.runners.torch.adjust import adjust_logits, needs_adjusting
from penstock.engine.runners.torch.logprobs import position_logprobs
from penstock.engine.types import SequenceOutput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from penstock.engine.types import PositionLogprobs, SampleSpec, SamplingParams

# Below this a temperature is greedy: dividing by it would overflow.
GREEDY_TEMPERATURE = 1e-5
# Candidates sorted to find where top-p's mass is reached; the rare flatter distribution is sorted whole.
_NUCLEUS = 1024
# Probabilities are summed in runs of this many before one run is searched for the sampled point.
_RUN = 128
# Entries of a score matrix worked on in float32 at a time, so that a large batch takes no more memory.
_MAX_ELEMENTS = 1 << 24


def sample(logits: Tensor, specs: Sequence[SampleSpec]) -> list[SequenceOutput]:
    """One output for each row of logits [rows, vocab] (any float dtype; may be overwritten).

    A row that yields no valid token gets an `error`; the others are not affected.
    """
    rows = max(1, _MAX_ELEMENTS // logits.shape[1])
    outputs: list[SequenceOutput] = []
    for i in range(0, len(specs), rows):
        outputs.extend(_sample_rows(logits[i : i + rows], specs[i : i + rows]))
    return outputs


def _sample_rows(logits: Tensor, specs: Sequence[SampleSpec]) -> list[SequenceOutput]:
    scored = [i for i, spec in enumerate(specs) if spec.params.logprobs is not None]
    raw = logits[scored].float() if scored else None
    if any(needs_adjusting(spec) for spec in specs):
        logits = adjust_logits(logits.float(), specs)
    tokens = _choose(logits, specs)
    logprobs: dict[int, PositionLogprobs] = {}
    valid = [(n, i) for n, i in enumerate(scored) if tokens[i] is not None]
    if raw is not None and valid:
        chosen = [tokens[i] or 0 for _, i in valid]
        tops = [specs[i].params.logprobs or 0 for _, i in valid]
        found = position_logprobs(raw[[n for n, _ in valid]], chosen, tops)
        logprobs = dict(zip((i for _, i in valid), found, strict=True))
    return [
        SequenceOutput(error=NOTHING_TO_CHOOSE)
        if token is None
        else SequenceOutput(token_id=token, logprobs=logprobs.get(i))
        for i, token in enumerate(tokens)
    ]


def _choose(logits: Tensor, specs: Sequence[SampleSpec]) -> list[int | None]:
    """The token of each row; None where there is none to choose."""
    random = [i for i, spec in enumerate(specs) if not _is_greedy(spec.params)]
    if not random:
        return _greedy(logits)
    if len(random) == len(specs):
        return _random(logits, specs)
    tokens: list[int | None] = [None] * len(specs)
    greedy = [i for i, spec in enumerate(specs) if _is_greedy(spec.params)]
    for i, token in zip(greedy, _greedy(logits[greedy]), strict=True):
        tokens[i] = token
    for i, token in zip(random, _random(logits[random], [specs[i] for i in random]), strict=True):
        tokens[i] = token
    return tokens


def _is_greedy(params: SamplingParams) -> bool:
    return params.temperature < GREEDY_TEMPERATURE


def _greedy(logits: Tensor) -> list[int | None]:
    # max, not argmax: on a CPU in bfloat16 it is five times as fast
    best = logits.max(-1)
    tokens = best.indices.tolist()
    return [t if math.isfinite(v) else None for t, v in zip(tokens, best.values.tolist(), strict=True)]


def _random(logits: Tensor, specs: Sequence[SampleSpec]) -> list[int | None]:
    """Inverse transform sampling: the token at which the cumulated mass passes one uniform number per row."""
    params = [spec.params for spec in specs]
    scores = logits.float() / _column([p.temperature for p in params], logits)
    weights = scores.sub_(scores.amax(-1, keepdim=True)).exp_()  # the likeliest token weighs 1
    _filter_(weights, params)
    points = [uniform(spec.seed, len(spec.output_token_ids)) for spec in specs]
    return _invert(weights, points)


def _filter_(weights: Tensor, params: Sequence[SamplingParams]) -> None:
    """Zero the weights [rows, vocab] that min-p, top-k and top-p exclude. Equal weights stay or go together."""
    if any(p.min_p > 0 for p in params):
        weights.masked_fill_(weights < _column([p.min_p for p in params], weights), 0.0)
    vocab = weights.shape[1]
    limited = [i for i, p in enumerate(params) if 0 < p.top_k < vocab or p.top_p < 1]
    if limited:
        subset = weights[limited]
        threshold = _threshold(subset, [params[i] for i in limited])
        weights[limited] = subset.masked_fill_(subset < threshold, 0.0)


def _threshold(weights: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """The least weight [rows, 1] that top-k and top-p let pass."""
    vocab = weights.shape[1]
    counts = [p.top_k if 0 < p.top_k < vocab else vocab for p in params]
    nucleus = _NUCLEUS if any(p.top_p < 1 for p in params) else 1
    candidates = min(vocab, max(nucleus, *(k if k < vocab else 1 for k in counts)))
    threshold, complete = _threshold_among(weights, params, counts, candidates)
    if not complete.all():
        rest = (~complete).nonzero().squeeze(1)
        index = rest.tolist()
        whole, _ = _threshold_among(weights[rest], [params[i] for i in index], [counts[i] for i in index], vocab)
        threshold[rest] = whole
    return threshold


def _threshold_among(
    weights: Tensor, params: Sequence[SamplingParams], counts: Sequence[int], candidates: int
) -> tuple[Tensor, Tensor]:
    """Thresholds [rows, 1] from the `candidates` heaviest tokens, and whether [rows] they were enough to tell."""
    heaviest = weights.topk(candidates, -1).values
    count = _column(counts, weights, torch.int64)
    cumulated = heaviest.cumsum(-1, dtype=torch.float64)
    within = cumulated.gather(1, (count - 1).clamp(max=candidates - 1))
    mass = torch.where(count > candidates, weights.sum(-1, keepdim=True, dtype=torch.float64), within)
    top_p = _column([p.top_p for p in params], weights, torch.float64)
    before = (cumulated < top_p * mass).sum(-1, keepdim=True)  # tokens ahead of the one that reaches the mass
    no_limit = top_p >= 1
    last = torch.where(no_limit, count - 1, torch.minimum(before, count - 1))
    complete = (last < candidates).squeeze(1)
    return heaviest.gather(1, last.clamp(max=candidates - 1)), complete


def _invert(weights: Tensor, points: Sequence[float]) -> list[int | None]:
    """For each row the first token at which the cumulated weight exceeds `point * total`.

    Sums are in float64 and in a fixed order: first of runs of 128 tokens, then over runs, then inside one run.
    """
    rows, vocab = weights.shape
    runs = torch.nn.functional.pad(weights, (0, -vocab % _RUN)).view(rows, -1, _RUN)
    cumulated = runs.sum(-1, dtype=torch.float64).cumsum(-1)
    total = cumulated[:, -1:]
    target = _column(points, weights, torch.float64) * total
    run = (cumulated <= target).sum(-1, keepdim=True).clamp(max=runs.shape[1] - 1)
    ahead = torch.where(run > 0, cumulated.gather(1, (run - 1).clamp(min=0)), 0.0)
    inside = runs.gather(1, run.unsqueeze(-1).expand(-1, -1, _RUN)).squeeze(1)
    passed = inside.cumsum(-1, dtype=torch.float64) + ahead > target
    # Rounding may let the sum of the run pass the point and its cumulated weights fall just short of it:
    # then the run's last token of any weight is meant.
    last = _RUN - 1 - (inside > 0).flip(-1).int().argmax(-1, keepdim=True)
    offset = torch.where(passed.any(-1, keepdim=True), passed.int().argmax(-1, keepdim=True), last)
    tokens = (run * _RUN + offset).squeeze(1).tolist()
    totals = total.squeeze(1).tolist()
    return [t if math.isfinite(mass) and mass > 0 else None for t, mass in zip(tokens, totals, strict=True)]


def _column(values: Sequence[float], like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=like.device).unsqueeze(1)
