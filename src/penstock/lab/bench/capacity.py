"""From points that each say something of the limit to the limit, with an interval.

The limit is a load; every point multiplies what was believed of it by how likely the point is under each value
(probabilistic bisection; Waeber, Frazier and Henderson, SIAM Journal on Control and Optimization, 2013). Before the
first point every load is as likely as any other on a logarithmic scale. Two limits are kept apart and the lower one
counts:

- **capacity**, of which speak the verdicts (each wrong in a few cases of a hundred), and far more precisely the rates
  at which overloaded points were served: a server that always has work serves at its capacity. What any other point
  was served at is a lower bound.
- **the SLO**, of which speaks the share of requests that met it, while there is a steady state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log, sqrt
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from penstock.lab.bench.stability import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LEVEL = 0.95
_GRID = 20_000
_SPAN = 16.0  # beyond the lowest and highest load that was tried
_WRONG = 0.03  # of verdicts
_DEGREES = 9  # of freedom of a served rate's error: ten blocks
_LUCK = 1.0  # standard errors: many lower bounds are exceeded by the luckiest of them
_SLOPES = np.geomspace(0.5, 50, 16)  # of the share that misses the SLO, over the load, both as logarithms
_MISFIT = 0.3  # of how far off a share is: what that line is wrong by
_LEAST_ERROR = 0.003  # of a served rate: its blocks don't tell what differs from run to run


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one point says. `load` is in requests/s."""

    load: float
    verdict: Verdict
    served: float
    served_error: float
    saturated: bool  # the server always had work
    share: tuple[float, float] | None = None  # of requests within the SLO, and its standard error
    closed: bool = False  # the load was no rate: only what was served counts
    requests: int = 0  # that were due
    degrees: int = _DEGREES  # of freedom of `served_error`


@dataclass(frozen=True, slots=True)
class Limit:
    """The highest load that holds. `low` and `high` hold 95 % of what is believed of it."""

    value: float
    low: float
    high: float
    by_slo: float  # probability that the SLO binds and not capacity

    @property
    def half_width(self) -> float:
        """As a share of the value."""
        return (self.high - self.low) / (2 * self.value)


def limit_of(points: Sequence[Evidence], target: float | None = None) -> Limit | None:
    """The limit; None while nothing bounds it from above.

    Args:
        target: share of requests that must meet the SLO; None: there is no SLO.
    """
    loads = [point.load for point in points if not point.closed] + [point.served for point in points]
    loads = [load for load in loads if load > 0]
    if not loads or not any(_bounds_above(point, target) for point in points):
        return None
    points = _alike(points)
    grid = np.geomspace(min(loads) / _SPAN, max(loads) * _SPAN, _GRID)  # [G]
    capacity = _normalized(sum((_of_capacity(point, grid) for point in points), np.zeros(_GRID)))
    above = _above(capacity)
    slo = np.ones(_GRID)
    if target is not None:
        slo = _above(_normalized(_of_slo(points, grid, target)))
    both = above * slo  # P(min > x)
    low, value, high = (float(grid[np.argmax(both <= 1 - q)]) for q in ((1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2))
    # P(SLO's limit is the lower one): the sum over x of P(SLO at x) * P(capacity above x).
    binds = float(-(np.diff(slo, prepend=1.0) * above).sum()) if target is not None else 0.0
    return Limit(value, low, high, binds)


def _alike(points: Sequence[Evidence]) -> list[Evidence]:
    """The points, with the errors of those that were saturated taken together.

    The rate of a server that always has work varies as its services do, whatever is offered, so its relative error
    falls with the square root of the requests alone. An error from the ten blocks of one run is itself a quarter off,
    and one that is too small by chance, as no long answer fell into that run, would count most of all.
    """
    told = [point for point in points if point.saturated and point.served > 0 and point.requests > 0]
    if not told:
        return list(points)
    each = sqrt(fmean((point.served_error / point.served) ** 2 * point.requests for point in told))  # of one request
    taken = []
    for point in points:
        error = point.served * each / sqrt(max(point.requests, 1))
        if point in told:
            taken.append(replace(point, served_error=error, degrees=_DEGREES * len(told)))
        else:
            taken.append(replace(point, served_error=max(point.served_error, error)))
    return taken


def _bounds_above(point: Evidence, target: float | None) -> bool:
    missed = target is not None and point.share is not None and point.share[0] < target and not point.closed
    return point.saturated or missed or point.verdict in (Verdict.OVERLOADED, Verdict.BACKLOGGED)


def _of_capacity(point: Evidence, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """[G] log-likelihood of each capacity."""
    found = np.zeros(len(grid))
    if not point.closed and point.verdict is Verdict.STABLE:
        found = np.where(grid < point.load, np.log(_WRONG), 0.0)
    elif not point.closed and point.verdict is Verdict.OVERLOADED:
        found = np.where(grid > point.load, np.log(_WRONG), 0.0)
    elif not point.closed and point.verdict is Verdict.BACKLOGGED:
        found = np.where(grid > 1.1 * point.load, np.log(10 * _WRONG), 0.0)
    if point.served <= 0:
        return found
    off = (grid - point.served) / max(point.served_error, _LEAST_ERROR * point.served)
    if not point.saturated:
        off = np.minimum(off + _LUCK, 0.0)
    return np.asarray(found - (point.degrees + 1) / 2 * np.log1p(off * off / point.degrees))


def _of_slo(points: Sequence[Evidence], grid: NDArray[np.float64], target: float) -> NDArray[np.float64]:
    """[G] log-likelihood of each highest load at which enough requests meet the SLO.

    Near there the logarithm of the share that misses it is taken as linear in that of the load, with an unknown slope
    that is summed over: two points on either side then say where it crosses, and not only that it does. The farther a
    point's share is from the target, the less is that believed.
    """
    told = [point for point in points if not point.closed and point.share is not None]
    told = [point for point in told if point.verdict not in (Verdict.OVERLOADED, Verdict.BACKLOGGED)]
    found = np.zeros((len(_SLOPES), len(grid)))  # [S, G]
    for point in told:
        share, error = point.share or (0.0, 1.0)
        missed = max(1 - share, error / 2)
        beyond = log(missed / (1 - target))
        spread = sqrt((error / missed) ** 2 + (_MISFIT * beyond) ** 2)
        off = (beyond - _SLOPES[:, None] * np.log(point.load / grid)[None, :]) / spread
        found -= (_DEGREES + 1) / 2 * np.log1p(off * off / _DEGREES)
    best = found.max()
    return np.asarray(best + np.log(np.exp(found - best).mean(axis=0) + 1e-300))


def _normalized(log: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(log - log.max())
    return np.asarray(weights / weights.sum())


def _above(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """[G] P(limit > x)."""
    return np.asarray(np.clip(1 - np.cumsum(weights), 0.0, 1.0))
