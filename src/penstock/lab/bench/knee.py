"""Where a closed loop's throughput stops growing, or its SLO is first missed.

Throughput over concurrency c has two asymptotes, whatever the server is (Denning and Buzen, The operational analysis of
queueing network models, ACM Computing Surveys, 1978): c / D while requests don't disturb each other, and a ceiling X.
What lies between differs: a server with slots turns sharply from the one to the other, one that batches gives
c / (D + c / X). ((c / D)^-p + X^-p)^(-1/p) has both, the latter with p = 1. All points together say D, X and p, and so
where 95 % of the highest throughput is reached. The first point that gives as much may be one that luck has lifted.
"""

from __future__ import annotations

from math import exp, log
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
_SHARPNESS = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 16.0, 64.0)  # p
_BENDS = 8000
_BEYOND = 5.0  # of the logarithm of the concurrency: how far beyond the points the line may bend


def knee(points: Sequence[tuple[float, float, float, int]]) -> Limit | None:
    """The fewest requests at once that give 95 % of the highest throughput; None: throughput still grows.

    Args:
        points: concurrency, answers/s, their standard error, and the requests that they come of.

    The interval is that of all lines, as likely as they fit the points. It ends at the fewest requests that were tried:
    whether fewer would give as much no point tells.
    """
    ordered = sorted(points)
    if len(ordered) < 2 or ordered[-1][1] > _STILL_GROWS * ordered[-2][1]:
        return None
    highest = max(ordered, key=lambda point: point[1])
    # Past its best a server may get slower, which this line can't.
    ordered = [point for point in ordered if point[0] <= highest[0] or point[1] >= PLATEAU * highest[1]]
    at, rates = np.log([point[0] for point in ordered]), np.log([point[1] for point in ordered])
    bends = np.linspace(at[0] - _BEYOND, at[-1] + _BEYOND, _BENDS)  # [U] logarithm of D * X, where the asymptotes meet
    errors = _errors(ordered)
    found = np.concatenate([_reached(p, bends, float(at[-1])) for p in _SHARPNESS]).clip(at[0], at[-1])
    misfit = np.stack([_misfit(p, bends, at, rates, errors) for p in _SHARPNESS])  # [P, U]
    least = misfit.min(axis=1, keepdims=True)
    # Each p counts as its best line fits, however few others do: a sharp bend leaves little room.
    likely = np.exp((least - misfit) / 2)
    weight = (likely / likely.sum(axis=1, keepdims=True) * np.exp((least.min() - least) / 2)).ravel()
    place = np.argsort(found)
    below = np.cumsum(weight[place]) / weight.sum()
    low, value, high = (float(found[place[np.searchsorted(below, q)]]) for q in ((1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2))
    return Limit(exp(value), exp(low), exp(high), 0.0)


def _errors(points: Sequence[tuple[float, float, float, int]]) -> NDArray[np.float64]:
    """[P] of the rates' logarithms; that of one request is the same at every concurrency, so all points tell it."""
    relative = np.array([error / rate for _, rate, error, _ in points])
    requests = np.array([max(requests, 1) for _, _, _, requests in points])
    return np.asarray(np.maximum(np.sqrt(np.mean(relative**2 * requests) / requests), _LEAST_ERROR))


def _misfit(
    p: float, bends: NDArray[np.float64], at: NDArray[np.float64], rates: NDArray[np.float64],
    errors: NDArray[np.float64],
) -> NDArray[np.float64]:  # fmt: skip
    """[U] sum of squares between `rates` [P] and the line that bends there, whose ceiling fits them best."""
    off = rates + np.logaddexp(p * (bends[:, None] - at), 0.0) / p  # [U, P] less the line of ceiling 1
    weights = errors**-2 / (errors**-2).sum()
    return np.asarray((((off - (off @ weights)[:, None]) / errors) ** 2).sum(axis=1))


def _reached(p: float, bends: NDArray[np.float64], most: float) -> NDArray[np.float64]:
    """[U] logarithm of the concurrency that gives 95 % of what `most` gives (a logarithm too)."""
    under = p * -log(PLATEAU) + np.logaddexp(p * (bends - most), 0.0)  # the ceiling over that, to the power of p
    return np.asarray(bends - (under + np.log(-np.expm1(-under))) / p)


def crossing(points: Sequence[tuple[float, tuple[float, float] | None]], target: float) -> Limit | None:
    """The concurrency up to which an SLO is met; None: not within the points.

    Args:
        points: concurrency, and the share within the SLO with its standard error.
        target: share of requests that must meet it.

    Between points, shares are taken as linear in the logarithm of the concurrency. The interval is that of the crossing
    when the points vary within their errors.
    """
    ordered = sorted(points, key=lambda point: point[0])
    shares = [share or (0.0, 1.0) for _, share in ordered]
    if len(ordered) < 2 or all(share >= target for share, _ in shares) or shares[0][0] < target:
        return None
    at = np.log([concurrency for concurrency, _ in ordered])
    draws = np.random.default_rng(0).standard_normal((_DRAWS, len(ordered)))
    draws[0] = 0.0  # the points themselves
    over = target - (np.array([share for share, _ in shares]) + draws * np.array([error for _, error in shares]))
    found = np.exp(_first_over(at, over))
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value = float(found[0])
    return Limit(value, min(float(low), value), max(float(high), value), 1.0)


def _first_over(at: NDArray[np.float64], over: NDArray[np.float64]) -> NDArray[np.float64]:
    """[D] where rows of `over` [D, P] first reach 0, interpolated; the ends where they never or always do."""
    reached = over >= 0
    first = np.where(reached.any(axis=1), reached.argmax(axis=1), len(at) - 1)
    before = np.maximum(first - 1, 0)
    rows = np.arange(len(over))
    a, b = over[rows, before], over[rows, first]
    share = np.divide(-a, b - a, out=np.ones(len(over)), where=(b > a))
    return np.asarray(at[before] + np.clip(share, 0, 1) * (at[first] - at[before]))
