"""Whether a server kept up with one load: a verdict on the backlog of one open-loop run.

What is tested is N(t), the requests that are due and not yet answered. Queueing theory says how it moves, whatever the
service times are (Whitt, Stochastic-Process Limits, chapters 5 and 9): over long times it is a Brownian motion kept
above zero, with the drift "offered less served". Below capacity it keeps returning to a level; at capacity it wanders
off like the square root of time; above, it grows with time. So there are two tests, both against exact capacity:

- **growth**: N's rise over the run, divided by what a walk with the same steps would rise by chance. Large: OVERLOADED.
  A line fitted to N would take an ordinary wandering for a trend, as its residuals depend on each other.
- **wander**: the standard deviation of N around its mean, and N's mean height over its lowest level, divided by the
  same. A walk's are never small; those of a queue which keeps returning are, once the run is long beside the queue's
  own excursions (the first is Sargan and Bhargava's statistic for a unit root, 1983, and right for many requests at
  once; the second, for few, sees how often the queue is empty; critical values are those of a walk that is reflected at
  zero). Either small: STABLE.

Steps are N's changes over blocks of time, and their own deviation is taken from the run: nothing is assumed of arrivals
or service. The first fifth is left out, as the server fills up in it. Where responses are long, N rises even though
the server keeps up, as the first long ones have yet to end; how much is known from the responses of the requests that
came first, and is subtracted. Latencies are not tested: within a busy hour they move together, and each long one would
be called a trend.

`python -m benchmarks.stability` measures both error rates on simulated queues of many kinds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from penstock.lab.bench.observations import Ending

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from penstock.lab.bench.observations import Observations

BLOCKS = 50
_FILLING = 0.2  # of the run, in which the server fills up
_FINE = 20  # points a block at which N is read
_EARLY = 0.05  # of the requests: those whose responses tell how long it takes to fill up
_FEWEST = 100  # requests after the filling
_GROWTH = 2.7  # what 1 % of walks reach
_WANDER = 0.142  # 2.5 % of walks stay below this or the next
_HEIGHT = 0.19
_LEAST_GROWTH = 0.005  # of the requests offered: less is no overload that anyone could act on
_LONGEST_RESPONSE = 0.2  # of the run, on average
_REFUSED = 0.01  # share of requests turned away from which a server is overloaded
_TURNED_AWAY = (Ending.CONNECT, Ending.TIMEOUT, Ending.BROKEN)
_BUSY = (429, 503)


class Verdict(StrEnum):
    """On one point."""

    STABLE = "STABLE"  # served as fast as offered; it could go on like that
    BACKLOGGED = "BACKLOGGED"  # a backlog stands and doesn't go away, nor grow beyond chance: about capacity
    OVERLOADED = "OVERLOADED"  # the backlog grows, or requests are turned away
    INCONCLUSIVE = "INCONCLUSIVE"  # too short, too few or too disturbed to tell


@dataclass(frozen=True, slots=True)
class Stability:
    """The verdict and what it rests on."""

    verdict: Verdict
    reason: str  # a sentence
    offered: float  # requests/s
    served: float  # whole answers/s after the filling, while requests came
    served_error: float  # standard error of `served`, by block means
    in_system: float  # requests due and not answered, on average over the same time
    growth: float | None = None  # in standard deviations of a walk's
    wander: float | None = None  # as a share of a walk's standard deviation at its end; so is the next
    height: float | None = None
    excess: float | None = None  # growth of the backlog as a share of the requests offered


def judge(seen: Observations) -> Stability:
    """Of an open-loop run. Requests count as being in the system from when they were due, sent or not."""
    over = np.where(seen.ending == Ending.CUT, np.inf, np.where(np.isnan(seen.end), np.inf, seen.end))
    away = np.isin(seen.ending, _TURNED_AWAY) | ((seen.ending == Ending.STATUS) & np.isin(seen.status, _BUSY))
    whole = seen.ending == Ending.WHOLE
    found = judge_times(seen.due, over, whole | (seen.ending == Ending.CUT))
    share, n = float(away.mean()) if len(seen) else 0.0, len(seen)
    if n >= _FEWEST and share - 2 * float(np.sqrt(share * (1 - share) / n)) > _REFUSED:
        reason = f"{share:.1%} of the requests were turned away or timed out."
        return _with(found, Verdict.OVERLOADED, reason)
    failed = 1 - float((whole | away | (seen.ending == Ending.CUT)).mean()) if n else 0.0
    if failed > _REFUSED:
        return _with(found, Verdict.INCONCLUSIVE, f"{failed:.1%} of the requests failed; errors are quickly served.")
    return found


def judge_closed(seen: Observations) -> Stability:
    """Of a closed loop, which can't fall behind: only the rate it was served at."""
    failed = 1 - float(np.isin(seen.ending, (Ending.WHOLE, Ending.CUT)).mean()) if len(seen) else 1.0
    found = judge_closed_times(seen.due, seen.end, seen.ending == Ending.WHOLE)
    if failed > _REFUSED:
        return _with(found, Verdict.OVERLOADED, f"{failed:.1%} of the requests failed.")
    return found


def judge_closed_times(due: NDArray[np.float64], end: NDArray[np.float64], whole: NDArray[np.bool_]) -> Stability:
    """Of requests due at `due` [n] and over at `end` [n] (NaN: not when the run was), whole answers marked."""
    n, last = len(due), float(np.max(due)) if len(due) else 0.0
    begin = _FILLING * last
    level = float((np.clip(np.nan_to_num(end, nan=last), begin, last) - np.clip(due, begin, last)).sum())
    served, error = _rate(np.sort(end[whole]), np.linspace(begin, last, BLOCKS + 1))
    few = n < _FEWEST / 2 or served == 0
    found = Stability(Verdict.STABLE, "", served, served, error, level / (last - begin) if last > 0 else 0.0)
    return _with(found, Verdict.INCONCLUSIVE, f"{n} requests are few.") if few else found


def steady_share(seen: Observations, good: NDArray[np.bool_]) -> tuple[float, float]:
    """Of the requests that were due after the filling, the share that is `good` [n], and its standard error.

    The error is taken over ten blocks of the run, as neighbours fare alike, and is never below that of independent
    requests.
    """
    last = float(np.max(seen.due)) if len(seen) else 0.0
    counted = seen.due >= _FILLING * last
    n = int(counted.sum())
    if n < 10:
        return float(good[counted].mean()) if n else 0.0, 1.0
    place = np.argsort(seen.due[counted], kind="stable")
    blocks = np.array([block.mean() for block in np.array_split(good[counted][place], 10)])
    share = float(good[counted].mean())
    independent = np.sqrt(max(share * (1 - share), 1 / n) / n)
    return share, float(max(blocks.std(ddof=1) / np.sqrt(10), independent))


def judge_times(due: NDArray[np.float64], end: NDArray[np.float64], whole: NDArray[np.bool_]) -> Stability:
    """Of requests due at `due` [n] and over at `end` [n] (inf: not when the run was), whole answers marked.

    The run lasts from the first time due to the last.
    """
    order = np.argsort(due, kind="stable")
    due, end, whole = due[order], end[order], whole[order]
    n = len(due)
    first, last = (float(due[0]), float(due[-1])) if n else (0.0, 0.0)
    length = last - first
    if n < _FEWEST / (1 - _FILLING) or length <= 0:
        return Stability(
            Verdict.INCONCLUSIVE, f"{n} requests are too few to tell.", n / length if length else 0.0, 0.0, 0.0, 0.0
        )
    begin = first + _FILLING * length
    fine = np.linspace(begin, last, BLOCKS * _FINE + 1)
    level = np.searchsorted(due, fine, "right") - np.searchsorted(np.sort(end), fine, "right")  # N
    window = last - begin
    offered = (n - 1) / length
    served, served_error = _rate(np.sort(end[whole]), fine[::_FINE])

    steps = np.diff(level[::_FINE]).astype(np.float64)
    early = max(5, int(_EARLY * n))
    response = np.minimum(end[:early] - due[:early], length)
    filling = offered * float((response - np.minimum(response, begin - first)).mean())
    rise = float(level[-1] - level[0]) - filling
    walk = float(steps.std(ddof=1)) * BLOCKS**0.5
    growth = rise / walk if walk else 0.0 if rise <= 0 else np.inf
    wander = float(level.std()) / walk if walk else 0.0
    height = float(level.mean() - level.min()) / walk if walk else 0.0
    excess = rise / (offered * window)
    found = Stability(
        Verdict.INCONCLUSIVE, "", offered, served, served_error, float(level.mean()), float(growth), wander, height,
        excess,
    )  # fmt: skip
    halves = [float(half.sum()) for half in np.array_split(steps, 2)]
    if growth > _GROWTH and excess > _LEAST_GROWTH and min(halves) > 0:
        return _with(found, Verdict.OVERLOADED, f"The backlog grew by {excess:.1%} of the requests offered.")
    if float(response.mean()) > _LONGEST_RESPONSE * length:
        return _with(
            found, Verdict.INCONCLUSIVE,
            f"A response takes {response.mean():.3g} s and the run {length:.3g} s; five times as long would tell.",
        )  # fmt: skip
    if (wander < _WANDER or height < _HEIGHT) and (excess <= _LEAST_GROWTH or growth < _GROWTH):
        return _with(found, Verdict.STABLE, "What waits keeps returning to the same level.")
    third = len(level) // 3
    if level[-third:].min() > level[:third].max() or (growth > _GROWTH and excess > _LEAST_GROWTH):
        return _with(found, Verdict.BACKLOGGED, "A backlog stands; it may be growing no faster than by chance.")
    return _with(found, Verdict.INCONCLUSIVE, "The run is too short to tell this backlog from a passing one.")


def _with(found: Stability, verdict: Verdict, reason: str) -> Stability:
    return replace(found, verdict=verdict, reason=reason)


def _rate(ends: NDArray[np.float64], edges: NDArray[np.float64]) -> tuple[float, float]:
    """Endings/s between the first of `edges` [BLOCKS + 1] and the last, and its standard error.

    Blocks next to each other depend on each other, so five are one.
    """
    window = float(edges[-1] - edges[0])
    if window <= 0:
        return 0.0, 0.0
    per_block = np.diff(np.searchsorted(ends, edges[::5], "right"))
    return float(per_block.sum() / window), float(per_block.std(ddof=1)) * len(per_block) ** 0.5 / window
