"""What a workload would send, without sending it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice, pairwise
from statistics import fmean, pvariance
from typing import TYPE_CHECKING, Any

from penstock.lab.bench.workloads.sharing import prefix_hit_ratio, units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.lab.bench.planned import Planned
    from penstock.lab.bench.workloads.base import Workload


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution in figures."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value; quantiles are values that occur."""
        ordered = sorted(values)
        p50, p90, p99 = (ordered[max(0, math.ceil(share * len(ordered)) - 1)] for share in (0.5, 0.9, 0.99))
        return cls(len(ordered), fmean(ordered), p50, p90, p99, ordered[-1])


@dataclass(frozen=True, slots=True)
class Summary:
    """Of the first requests of a workload."""

    requests: int
    spreads: dict[str, Spread]  # by name; lengths are in tokens, or in words where tokens aren't known
    prefix_hits: float  # see sharing
    rate: float | None  # requests/s, of a trace
    burstiness: float | None  # squared coefficient of variation of its intervals
    first: Planned

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        spreads = {
            name: {key: getattr(spread, key) for key in ("count", "mean", "p50", "p90", "p99", "max")}
            for name, spread in self.spreads.items()
        }
        return {
            "requests": self.requests, "spreads": spreads, "prefix_hits": self.prefix_hits, "rate": self.rate,
            "burstiness": self.burstiness, "first": {"prompt": self.first.prompt, "max_tokens": self.first.max_tokens},
        }  # fmt: skip


def summarize(workload: Workload, count: int) -> Summary:
    """Of its first `count` requests, or all if it has fewer."""
    taken = list(islice(workload.requests(), count))
    known = all(planned.prompt_tokens is not None for planned in taken)
    spreads = {
        "input tokens" if known else "input words": Spread.of(
            [len(units(one.prompt)) if one.prompt_tokens is None else one.prompt_tokens for one in taken]
        ),
        "output tokens": Spread.of([one.max_tokens for one in taken]),
    }
    if turns := [turn for one in taken for turn in one.turns]:
        spreads["turns"] = Spread.of([1 + len(one.turns) for one in taken])
        spreads["later input words"] = Spread.of([len(turn.text.split()) for turn in turns])
        spreads["thinking s"] = Spread.of([turn.think for turn in turns])
    due = [one.due for one in taken if one.due is not None]
    intervals = [after - before for before, after in pairwise(due)]
    rate = burstiness = None
    if intervals and (mean := fmean(intervals)):
        spreads["interval s"] = Spread.of(intervals)
        rate, burstiness = 1 / mean, pvariance(intervals) / mean**2
    return Summary(len(taken), spreads, prefix_hit_ratio(taken), rate, burstiness, taken[0])
