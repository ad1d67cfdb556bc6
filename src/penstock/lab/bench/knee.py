"""Where a closed loop's throughput stops growing, or its SLO is first missed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from penstock.lab.bench.capacity import LEVEL, Limit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PLATEAU = 0.95  # of the highest throughput
_DRAWS = 4000
_STILL_GROWS = 1.1  # a last point with so much more throughput than the one before shows no plateau
_LEAST_ERROR = 0.003


def crossing(
    points: Sequence[tuple[float, float, float, tuple[float, float] | None]], target: float | None
) -> Limit | None:
    """The concurrency at which enough is reached, or up to which the SLO is met; None: not within the points.

    Args:
        points: concurrency, answers/s and their standard error, and the share within the SLO with its own.
        target: share of requests that must meet the SLO; None: look for the knee of the throughput.

    Between points, throughput and shares are taken as linear in the logarithm of the concurrency. The interval is that
    of the crossing when the points vary within their errors.
    """
    ordered = sorted(points, key=lambda point: point[0])
    if len(ordered) < 2:
        return None
    at = np.log([point[0] for point in ordered])
    draws = np.random.default_rng(0).standard_normal((_DRAWS, len(ordered)))
    draws[0] = 0.0  # the points themselves
    if target is None:
        rates = np.array([point[1] for point in ordered])
        errors = np.maximum([point[2] for point in ordered], _LEAST_ERROR * rates)
        if rates[-1] > _STILL_GROWS * rates[-2]:
            return None
        drawn = rates + draws * errors
        # Saturated points differ by chance alone, so their mean is the plateau and not the luckiest of them.
        plateau = np.where(rates >= PLATEAU * rates.max(), drawn, np.nan)
        over = drawn / np.nanmean(plateau, axis=1, keepdims=True) - PLATEAU
    else:
        shares = [point[3] or (0.0, 1.0) for point in ordered]
        if all(share >= target for share, _ in shares) or shares[0][0] < target:
            return None
        over = target - (np.array([share for share, _ in shares]) + draws * np.array([error for _, error in shares]))
    found = np.exp(_first_over(at, over))
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value = float(found[0])
    return Limit(value, min(float(low), value), max(float(high), value), 0.0 if target is None else 1.0)


def _first_over(at: NDArray[np.float64], over: NDArray[np.float64]) -> NDArray[np.float64]:
    """[D] where rows of `over` [D, P] first reach 0, interpolated; the ends where they never or always do."""
    reached = over >= 0
    first = np.where(reached.any(axis=1), reached.argmax(axis=1), len(at) - 1)
    before = np.maximum(first - 1, 0)
    rows = np.arange(len(over))
    a, b = over[rows, before], over[rows, first]
    share = np.divide(-a, b - a, out=np.ones(len(over)), where=(b > a))
    return np.asarray(at[before] + np.clip(share, 0, 1) * (at[first] - at[before]))
