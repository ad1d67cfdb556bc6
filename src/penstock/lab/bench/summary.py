"""A quantity's many values as one metric, with intervals that are honest about values that depend on each other.

Requests of one run share a queue: those that follow each other are late together, and an interval that takes them as
independent is too narrow. So a run is divided into consecutive *sections*, and the spread between sections tells how
much the mean varies (batch means; Law, Simulation Modeling and Analysis, chapter 9). The same spread of the share of
values below a percentile gives that percentile's design effect, and with it the ranks between which it lies
(Woodruff, Confidence Intervals for Medians and Other Position Measures, 1952).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.core.estimate import CONFIDENCE, t_quantile
from penstock.core.record import SAMPLES_KEPT, Interval, Metric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PERCENTILES = (50, 90, 95, 99)
_SECTIONS = 20  # of a measurement; batch means want 10 to 30
_LEAST = 5  # requests in a section
_EXACT_RANKS_TO = 5000  # values; above, the binomial distribution is as good as normal


@dataclass(frozen=True, slots=True)
class Sections:
    """Which section each of a measurement's requests is in; they never fall from one request to the next."""

    of_request: list[NDArray[np.int64]]  # for each run, [requests]
    run: NDArray[np.int64]  # [sections] the run it is part of

    @classmethod
    def split(cls, counted: Sequence[NDArray[np.bool_]]) -> Sections:
        """Sections of about equally many of the requests that count.

        Args:
            counted: for each run, [requests], which of them count.
        """
        totals = [int(mask.sum()) for mask in counted]
        wanted = math.ceil(_SECTIONS / max(1, sum(n > 0 for n in totals)))
        parts = [min(wanted, max(1, n // _LEAST)) for n in totals]
        of_request, first = [], 0
        for mask, n, count in zip(counted, totals, parts, strict=True):
            before = np.minimum(np.cumsum(mask) - mask, max(0, n - 1))
            of_request.append(first + before * count // max(1, n))
            first += count
        return cls(of_request, np.repeat(np.arange(len(parts)), parts))


def of_requests(name: str, unit: str, runs: Sequence[NDArray[Any]], sections: Sections) -> Metric | None:
    """One value a request, NaN where it has none; None if none has.

    Args:
        runs: for each run, [requests].
    """
    values = np.concatenate([run.astype(np.float64) for run in runs]) if runs else np.empty(0)
    section = np.concatenate(sections.of_request) if runs else np.empty(0, np.int64)
    there = np.isfinite(values)
    values, section = values[there], section[there]
    if not len(values):
        return None
    ordered = np.sort(values)
    found = {f"p{percent}": interpolate(ordered, percent) for percent in PERCENTILES}

    def below(value: float) -> NDArray[np.float64]:
        return np.bincount(section[values <= value], minlength=len(sections.run)).astype(np.float64)

    sums: NDArray[np.float64] = np.bincount(section, values, minlength=len(sections.run)).astype(np.float64)
    weights = np.bincount(section, minlength=len(sections.run)).astype(np.float64)
    mean = min(max(float(values.mean()), float(ordered[0])), float(ordered[-1]))
    intervals = {}
    for percent in PERCENTILES:
        ranks = ranks_of(len(values), percent / 100, below(found[f"p{percent}"]), weights, sections.run)
        if ranks is not None:
            low, high = float(ordered[ranks[0] - 1]), float(ordered[ranks[1] - 1])
            intervals[f"p{percent}"] = Interval(low, high, CONFIDENCE, "ranks")
    return Metric(
        name=name, unit=unit, n=len(values), mean=mean, **found, min=float(ordered[0]), max=float(ordered[-1]),
        ci=interval_of_mean(mean, sums, weights, sections.run), intervals=intervals,
        samples=tuple(values.tolist()) if len(values) <= SAMPLES_KEPT else (),
    )  # fmt: skip


def interval_of_mean(
    mean: float, sums: NDArray[np.float64], weights: NDArray[np.float64], run: NDArray[np.int64]
) -> Interval | None:
    """Of a mean of weighted values: their sums and their weights by section [sections], and each section's run."""
    found = _standard_error(mean, sums, weights, run)
    if found is None:
        return None
    error, degrees = found
    half = t_quantile(degrees) * error
    return Interval(mean - half, mean + half, CONFIDENCE, "sections")


def _standard_error(
    mean: float, sums: NDArray[np.float64], weights: NDArray[np.float64], run: NDArray[np.int64]
) -> tuple[float, int] | None:
    """Of sum(sums) / sum(weights), linearised (Cochran, Sampling Techniques, 6.3), and its degrees of freedom.

    Runs that differ from each other more than their sections make it larger.
    """
    there = weights > 0
    if there.sum() < 2:
        return None
    residual = (sums - mean * weights)[there]
    total = float(weights.sum())
    by_section = _error_of_total(residual) / total
    totals = np.bincount(run[there], residual)[np.unique(run[there])].astype(np.float64)
    by_run = _error_of_total(totals) / total if len(totals) > 1 else 0.0
    return max(by_section, by_run), int(there.sum()) - 1


def _error_of_total(parts: NDArray[np.float64]) -> float:
    return float(np.std(parts, ddof=1) * math.sqrt(len(parts)))


def ranks_of(
    n: int, share: float, below: NDArray[np.float64], weights: NDArray[np.float64], run: NDArray[np.int64]
) -> tuple[int, int] | None:
    """Ranks (from 1) of the n values between which the `share`-quantile lies; None if n can't tell."""
    effective = n / _design_effect(share, below, weights, run)
    size = max(1, round(effective))
    bounds = binomial_ranks(size, share)
    if bounds is None:
        return None
    low, high = (round(rank / size * n) for rank in bounds)
    return max(1, low), min(n, high)


def _design_effect(
    share: float, below: NDArray[np.float64], weights: NDArray[np.float64], run: NDArray[np.int64]
) -> float:
    """How many dependent values are worth an independent one, at least 1."""
    actual = float(below.sum() / weights.sum())
    found = _standard_error(actual, below, weights, run)
    if found is None:
        return 1.0
    return max(1.0, found[0] ** 2 * float(weights.sum()) / (share * (1 - share)))


def binomial_ranks(n: int, share: float) -> tuple[int, int] | None:
    """Ranks l and u with P(X_(l) <= quantile <= X_(u)) at least CONFIDENCE, equal tails; None if there are none."""
    tail = (1 - CONFIDENCE) / 2
    if n > _EXACT_RANKS_TO:
        half = t_quantile(n) * math.sqrt(n * share * (1 - share))
        low, high = math.floor(n * share - half), math.ceil(n * share + half) + 1
        return (low, high) if low >= 1 and high <= n else None
    k = np.arange(n + 1)
    ways = math.lgamma(n + 1) - np.array([math.lgamma(i + 1) + math.lgamma(n - i + 1) for i in range(n + 1)])
    at_most = np.cumsum(np.exp(ways + k * math.log(share) + (n - k) * math.log(1 - share)))
    low = int(np.searchsorted(at_most, tail, side="right"))  # P(B < low) <= tail
    high = int(np.searchsorted(at_most, 1 - tail, side="left")) + 1  # P(B >= high) <= tail
    return (low, high) if low >= 1 and high <= n else None


def interpolate(ordered: NDArray[np.float64], percent: float) -> float:
    """Linear between order statistics, as in `Metric.from_samples`."""
    at = (len(ordered) - 1) * percent / 100
    low = int(at)
    a, b = float(ordered[low]), float(ordered[min(low + 1, len(ordered) - 1)])
    return min(a + (b - a) * (at - low), b)
