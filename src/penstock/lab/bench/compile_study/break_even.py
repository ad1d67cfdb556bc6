"""After how many requests a compile has paid for itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, variance
from typing import TYPE_CHECKING, Literal

from penstock.core.estimate import CONFIDENCE
from penstock.lab.statistics import t_quantile

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Span:
    """A figure with its interval; one without is as wide as a point."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class BreakEven:
    """`verdict` is "pays" if a request is faster beyond doubt, "never" if it is no faster beyond doubt, else "open".

    `requests` and its bounds are counts, not rounded; None: there is no such number.
    """

    verdict: Literal["pays", "never", "open"]
    requests: float | None
    low: float | None
    high: float | None
    cost: Span  # seconds that compiling takes
    saving: Span  # seconds that each request is then faster

    def pays_within(self, requests: float) -> bool:
        return self.verdict == "pays" and self.high is not None and self.high <= requests


def break_even(costs: Sequence[float], before: Sequence[float], after: Sequence[float]) -> BreakEven:
    """Hold what compiling takes against what it saves.

    Args:
        costs: seconds it took to compile, each time; a single one is taken as it is.
        before, after: seconds a request takes without and with compiled code, round by round.

    The saving's interval is Welch's. The count's goes from the lowest cost over the highest saving to the highest cost
    over the lowest saving, which is no narrower than the level says. Raises ValueError for an empty sequence.
    """
    cost, saving = mean_of([max(0.0, each) for each in costs]), difference(before, after)
    cost = Span(cost.value, max(0.0, cost.low), cost.high)
    estimate = cost.value / saving.value if saving.value > 0 else None
    if saving.high <= 0:
        return BreakEven("never", None, None, None, cost, saving)
    low = cost.low / saving.high
    if saving.low <= 0:
        return BreakEven("open", estimate, low, None, cost, saving)
    return BreakEven("pays", estimate, low, cost.high / saving.low, cost, saving)


def mean_of(values: Sequence[float]) -> Span:
    """The mean and Student's t interval; no interval with one value."""
    if not values:
        raise ValueError("no values")
    mean = fmean(values)
    if len(values) == 1:
        return Span(mean, mean, mean)
    half = _quantile(len(values) - 1) * math.sqrt(variance(values) / len(values))
    return Span(mean, mean - half, mean + half)


def geometric_mean_of(values: Sequence[float]) -> Span:
    """Of values over zero: the mean of their logarithms and its interval, made numbers again."""
    span = mean_of([math.log(value) for value in values])
    return Span(math.exp(span.value), math.exp(span.low), math.exp(span.high))


def difference(before: Sequence[float], after: Sequence[float]) -> Span:
    """Of the means, by Welch's t. With a single value on a side nothing is known: the interval is all numbers."""
    value = fmean(before) - fmean(after)
    n, m = len(before), len(after)
    if n < 2 or m < 2:
        return Span(value, -math.inf, math.inf)
    one, other = variance(before) / n, variance(after) / m
    below = one**2 / (n - 1) + other**2 / (m - 1)
    degrees = (one + other) ** 2 / below if below > 0 else n + m - 2
    half = _quantile(degrees) * math.sqrt(one + other)
    return Span(value, value - half, value + half)


def _quantile(degrees: float) -> float:
    return t_quantile((1 + CONFIDENCE) / 2, degrees)
