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

from dataclasses import dataclass
from math import erf, sqrt
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
    grid = np.geomspace(min(loads) / _SPAN, max(loads) * _SPAN, _GRID)  # [G]
    capacity = _normalized(sum((_of_capacity(point, grid) for point in points), np.zeros(_GRID)))
    above = _above(capacity)
    slo = np.ones(_GRID)
    if target is not None:
        slo = _above(_normalized(sum((_of_slo(point, grid, target) for point in points), np.zeros(_GRID))))
    both = above * slo  # P(min > x)
    low, value, high = (float(grid[np.argmax(both <= 1 - q)]) for q in ((1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2))
    # P(SLO's limit is the lower one): the sum over x of P(SLO at x) * P(capacity above x).
    binds = float(-(np.diff(slo, prepend=1.0) * above).sum()) if target is not None else 0.0
    return Limit(value, low, high, binds)


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
    return np.asarray(found - (_DEGREES + 1) / 2 * np.log1p(off * off / _DEGREES))


def _of_slo(point: Evidence, grid: NDArray[np.float64], target: float) -> NDArray[np.float64]:
    """[G] log-likelihood of each highest load at which enough requests meet the SLO."""
    if point.closed or point.share is None or point.verdict in (Verdict.OVERLOADED, Verdict.BACKLOGGED):
        return np.zeros(len(grid))
    share, error = point.share
    meets = _WRONG + (1 - 2 * _WRONG) * _normal((share - target) / error)
    return np.asarray(np.where(grid >= point.load, np.log(meets), np.log(1 - meets)))


def _normalized(log: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(log - log.max())
    return np.asarray(weights / weights.sum())


def _above(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """[G] P(limit > x)."""
    return np.asarray(np.clip(1 - np.cumsum(weights), 0.0, 1.0))


def _normal(z: float) -> float:
    return 0.5 * (1 + erf(z / sqrt(2)))
