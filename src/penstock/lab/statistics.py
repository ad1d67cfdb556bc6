"""What repeated measurements allow to be said: ratios with intervals, and a verdict.

The unit is a run, never a request: requests of one run share its machine, its neighbours and its batch, so treating
them as independent would find differences in anything. Figures of runs are compared as ratios, hence as logarithms,
where "twice as fast" and "half as fast" are equally far from 1.

    ratio = paired_ratio(a=[101.0, 99.5, 100.8, 100.1], b=[95.2, 94.8, 95.9, 95.0], lag=[-1, 1, -1, 1])
    verdict(ratio, higher_is_better=True)  # Verdict.FASTER: a has more tokens/s than b
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.core.errors import InvalidRequestError
from penstock.core.estimate import CONFIDENCE
from penstock.core.record import Interval

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

MARGIN = 0.03  # ratios from 1/1.03 to 1.03 make no difference that anyone would act on
_RESAMPLES = 4000


class Verdict(StrEnum):
    """Of the first of two, as seen from the second."""

    FASTER = "faster"
    SLOWER = "slower"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Ratio:
    """a over b. `log` and `error` are the estimate's natural logarithm and its standard error."""

    n: int  # pairs; of unpaired samples the smaller number
    log: float
    error: float
    degrees: float  # of freedom that the error was estimated with; 0: a single pair, nothing is known of the error
    bootstrap: Interval | None  # of the ratio; None with fewer than four samples
    drift: float | None = None  # of logarithms, a slot; None unless `lag` was told and varied

    @property
    def estimate(self) -> float:
        return math.exp(self.log)

    @property
    def interval(self) -> Interval | None:
        """Of the ratio, by Student's t on logarithms; None without an error."""
        return self.interval_at(CONFIDENCE)

    def interval_at(self, level: float) -> Interval | None:
        if self.degrees <= 0:
            return None
        half = t_quantile((1 + level) / 2, self.degrees) * self.error
        return Interval(_exp(self.log - half), _exp(self.log + half), level, "t")

    @property
    def p_value(self) -> float:
        """Two-sided, that a and b are the same; 1 without an error."""
        if self.degrees <= 0:
            return 1.0
        if self.error == 0:
            return 1.0 if self.log == 0 else 0.0
        return 2 * (1 - t_probability(abs(self.log) / self.error, self.degrees))


def paired_ratio(a: ArrayLike, b: ArrayLike, *, lag: ArrayLike | None = None, seed: int = 0) -> Ratio:
    """Geometric mean of a[i] / b[i], all over zero.

    `lag[i]` says how many slots a[i] was measured after b[i] (negative: before). If it varies, a drift of the machine
    that is linear over a pair's span is estimated beside the ratio and taken out of both the estimate and its error
    (the crossover design; Jones and Kenward, Design and Analysis of Cross-Over Trials, chapter 2). With the balanced
    order ABBA the estimate itself is the plain mean.

    Raises InvalidRequestError unless there are equally many figures, all of them over zero.
    """
    first = _logs(a, "a")
    n = len(first)
    logs = first - _same_length(_logs(b, "b"), n)
    columns = [np.ones(n)]
    if lag is not None:
        lags = _same_length(np.atleast_1d(np.asarray(lag, np.float64)), n)
        if n > 2 and np.ptp(lags) > 0:
            columns.append(lags)
    design = np.stack(columns, 1)  # [n, 1 or 2]
    inverse = np.linalg.pinv(design.T @ design)
    solve = inverse @ design.T
    fit = solve @ logs
    residuals = logs - design @ fit
    degrees = n - design.shape[1]
    error = math.sqrt(float(residuals @ residuals) / degrees * float(inverse[0, 0])) if degrees > 0 else 0.0
    bootstrap = None
    if n >= 4:
        # Residuals of a fit are smaller than the errors they stand for.
        spread = residuals * math.sqrt(n / degrees)
        drawn = np.random.default_rng(seed).choice(spread, (_RESAMPLES, n))
        bootstrap = _percentiles(np.exp(fit[0] + drawn @ solve[0]), CONFIDENCE)
    drift = float(fit[1]) if len(columns) > 1 else None
    return Ratio(n, float(fit[0]), error, float(degrees), bootstrap, drift)


def unpaired_ratio(a: ArrayLike, b: ArrayLike, *, seed: int = 0) -> Ratio:
    """Ratio of geometric means of figures that were not taken in pairs, by Welch's t on logarithms.

    Raises InvalidRequestError unless all are over zero.
    """
    first, second = _logs(a, "a"), _logs(b, "b")
    log = float(first.mean() - second.mean())
    n = min(len(first), len(second))
    if n < 2:
        return Ratio(n, log, 0.0, 0.0, None)
    parts = first.var(ddof=1) / len(first), second.var(ddof=1) / len(second)
    total = float(sum(parts))
    below = parts[0] ** 2 / (len(first) - 1) + parts[1] ** 2 / (len(second) - 1)
    degrees = total**2 / float(below) if below > 0 else float(len(first) + len(second) - 2)
    bootstrap = None
    if n >= 4:
        generator = np.random.default_rng(seed)
        means = [generator.choice(x, (_RESAMPLES, len(x))).mean(axis=1) for x in (first, second)]
        bootstrap = _percentiles(np.exp(means[0] - means[1]), CONFIDENCE)
    return Ratio(n, log, math.sqrt(total), degrees, bootstrap)


def verdict(ratio: Ratio, *, higher_is_better: bool, margin: float = MARGIN) -> Verdict:
    """Of a beside b, wrong in at most one case of twenty.

    Equivalent if both one-sided tests at 5 % put the ratio between 1/(1 + margin) and 1 + margin (TOST; Schuirmann,
    1987), however sure the small difference is; else faster or slower if the 95 % interval leaves out 1.

    Raises InvalidRequestError unless the margin is over 0.
    """
    if not margin > 0:
        raise InvalidRequestError(f"A margin of equivalence is over 0; got {margin}.", param="margin")
    narrow, wide = ratio.interval_at(1 - 2 * (1 - CONFIDENCE)), ratio.interval
    if narrow is None or wide is None:
        return Verdict.INCONCLUSIVE
    if 1 / (1 + margin) < narrow.low and narrow.high < 1 + margin:
        return Verdict.EQUIVALENT
    if wide.low <= 1 <= wide.high:
        return Verdict.INCONCLUSIVE
    return Verdict.FASTER if (ratio.log > 0) == higher_is_better else Verdict.SLOWER


def bootstrap_interval(
    samples: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], Any],
    *,
    level: float = CONFIDENCE,
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of a statistic that takes [resamples, n] and gives [resamples].

    `lambda x: np.quantile(x, 0.95, axis=1)` is one. Raises InvalidRequestError without samples.
    """
    values = np.asarray(samples, np.float64)
    if values.ndim != 1 or not len(values):
        raise InvalidRequestError("A bootstrap interval needs samples in one dimension.", param="samples")
    drawn = np.random.default_rng(seed).choice(values, (resamples, len(values)))
    return _percentiles(np.asarray(statistic(drawn)), level)


def shift(a: ArrayLike, b: ArrayLike) -> float:
    """Hodges and Lehmann's estimate of how much more a is than b: the median over all differences.

    Robust where one run in ten was disturbed; takes len(a) x len(b) numbers of memory.
    """
    return float(np.median(np.subtract.outer(np.asarray(a, np.float64), np.asarray(b, np.float64))))


def t_probability(t: float, degrees: float) -> float:
    """P(T <= t) of Student's t, by the regularized incomplete beta function."""
    square = t * t
    if square < degrees:  # the middle is small then, and the tail's argument would be rounded to 1
        tail = (1 - _incomplete_beta(0.5, degrees / 2, square / (degrees + square))) / 2
    else:
        tail = _incomplete_beta(degrees / 2, 0.5, degrees / (degrees + square)) / 2
    return 1 - tail if t >= 0 else tail


def t_quantile(probability: float, degrees: float) -> float:
    """The t below which a share `probability`, between 0 and 1, of Student's t lies."""
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees)
    low, high = 0.0, 1.0
    while t_probability(high, degrees) < probability:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_probability(middle, degrees) < probability else (low, middle)
    return high


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b) by its continued fraction (DLMF 8.17.22), evaluated by Lentz's method."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction of the complement converges faster
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    ) / a  # fmt: skip
    tiny = 1e-300
    c, d = 1.0, 1 / ((1 - (a + b) * x / (a + 1)) or tiny)
    result = d
    for m in range(1, 10_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / ((1 + term * d) or tiny)
            c = (1 + term / c) or tiny
            result *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * result


def _logs(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.atleast_1d(np.asarray(values, np.float64))
    if not len(array) or not (np.isfinite(array) & (array > 0)).all():
        raise InvalidRequestError(f"A ratio is of finite figures over zero; {name} is {array.tolist()}.", param=name)
    return np.asarray(np.log(array))


def _same_length(values: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    if len(values) != n:
        raise InvalidRequestError(f"Paired figures come in equal numbers; got {n} and {len(values)}.", param="b")
    return values


def _percentiles(values: NDArray[np.float64], level: float) -> Interval:
    low, high = np.quantile(values, ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(low), float(high), level, "bootstrap")


def _exp(x: float) -> float:
    return math.exp(min(x, 700.0))  # an interval as wide as all numbers stays finite
