"""Percentiles of samples, and how sure their mean is: what a `Metric` is made of, without numpy."""

from __future__ import annotations

import math
from random import Random
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Method = Literal["t", "bootstrap"]
CONFIDENCE = 0.95

# Below the first size Student's t is the honest interval; above the second it and the bootstrap agree to
# three digits and only the bootstrap is slow.
_BOOTSTRAP_FROM = 30
_BOOTSTRAP_TO = 10_000
_RESAMPLES = 2000


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Interpolated linearly between neighbours. A greater `percent` never gives less, rounding or not."""
    at = (len(ordered) - 1) * percent / 100
    below = int(at)
    low, high = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
    return min(low + (high - low) * (at - below), high)


def interval_of_mean(values: Sequence[float], mean: float, seed: int) -> tuple[float, float, Method] | None:
    """Of `CONFIDENCE`, and how it was made; None with a single value."""
    n = len(values)
    if n < 2:
        return None
    if _BOOTSTRAP_FROM <= n <= _BOOTSTRAP_TO:
        return *_bootstrap(values, seed), "bootstrap"
    deviation = math.hypot(*(value - mean for value in values)) / math.sqrt(n - 1)
    half = t_quantile(n - 1) * deviation / math.sqrt(n)
    return mean - half, mean + half, "t"


def _bootstrap(values: Sequence[float], seed: int) -> tuple[float, float]:
    generator, n = Random(seed), len(values)
    means = sorted(sum(generator.choices(values, k=n)) / n for _ in range(_RESAMPLES))
    return percentile(means, 50 * (1 - CONFIDENCE)), percentile(means, 50 * (1 + CONFIDENCE))


def t_quantile(degrees: int) -> float:
    """Two-sided critical value of Student's t for CONFIDENCE; the normal one where they agree to 1e-3."""
    if degrees >= _BOOTSTRAP_TO:
        return NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    low, high = 0.0, 1000.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, degrees) < CONFIDENCE else (low, middle)
    return high


def _t_within(t: float, degrees: int) -> float:
    """P(|T| < t), by the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    theta = math.atan2(t, math.sqrt(degrees))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + odd, degrees, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / math.pi * (theta + sine * total) if odd else sine * total
