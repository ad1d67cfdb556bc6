"""The search for the highest load that holds.

In offered rate: closed loops with 1, 8, 64 ... requests at once, which can't run away, give a first guess at capacity.
Then loads are offered around what `capacity` makes of all points so far, in turn above and below it, ever nearer; with
an SLO that binds before capacity does, at the middle of what is believed of it. It ends when the interval is narrow and
both sides are shown, or when steps or time are used up.

In concurrency: geometric growth until throughput stops growing or the SLO is missed, then halving on a logarithmic
scale. Without an SLO the result is the fewest requests at once that give 95 % of the highest throughput.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from math import log
from statistics import median
from typing import TYPE_CHECKING, Literal

from penstock.lab.bench.capacity import Evidence, limit_of
from penstock.lab.bench.knee import crossing, knee
from penstock.lab.bench.stability import Verdict
from penstock.lab.bench.tried import Load

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.lab.bench.capacity import Limit
    from penstock.lab.bench.tried import Point

_GROWTH = 8  # of concurrency, looking for a first guess
_OF_TOLERANCE = 0.5  # is the standard error that two saturated points are to have together
_MOST, _MOST_BELOW = 4, 2  # times the plan's requests
_ROUNDS = 20  # of a closed loop that is a first guess
_STILL_GROWS = 1.25  # times the throughput of before
_PLATEAU = 0.9  # of the throughput of the point before: eight times the requests gave no more
_LINEAR = 0.6  # of what as many more requests at once would give if they didn't disturb each other
_ABOVE = 0.12  # from what is believed, until a run has told how much its backlog moves by chance
_SURELY = 4.0  # times that: as far above that the run is overloaded beyond doubt
_ABOVE_LEAST, _ABOVE_MOST = 0.04, 0.25
_BELOW = (0.15, 0.08, 0.06, 0.045, 0.035, 0.03)
_SAFE = 0.83  # of the limit: where even a short run shows that a load holds
_NEAR = 0.2  # from the limit: how close points that held and points that didn't must be
_INVALID_IN_TURN = 3
_FEW = 8  # at once
_KNEE_POINTS = 6  # at least: fewer may lie on a line by chance
_AROUND = (1.6, 1.3, 1.15, 1.07, 1.03)  # times the knee


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much may be spent on it."""

    axis: Literal["rate", "concurrency"] = "rate"
    steps: int = 12
    budget: float = 600.0  # s of offering
    requests: int = 3000  # of each point
    tolerance: float = 0.015  # half the interval, as a share of the limit
    target: float | None = None  # share of requests that must meet the SLO; None: there is none
    max_rate: float | None = None
    max_concurrency: int = 512


@dataclass(slots=True, eq=False)
class Sweep:
    """All points so far, and what they say together."""

    plan: Plan
    points: list[Point] = field(default_factory=list)  # in the order they were tried
    limit: Limit | None = None  # None: no load was found that is too much, or none that holds
    cut: bool = False
    ended: str = ""  # why, in a few words

    @property
    def held(self) -> list[Point]:
        """Points of the axis that were stable and met the SLO."""
        return [point for point in self.of_axis if point.stability.verdict is Verdict.STABLE and self.meets(point)]

    @property
    def of_axis(self) -> list[Point]:
        closed = self.plan.axis == "concurrency"
        return [point for point in self.points if point.load.closed == closed and point.usable]

    @property
    def inconclusive(self) -> bool:
        """Whether no point of the axis had a verdict, as each was too short, too few or too disturbed."""
        return all(point.stability.verdict is Verdict.INCONCLUSIVE for point in self.of_axis)

    def meets(self, point: Point) -> bool:
        return self.plan.target is None or (point.share is not None and point.share[0] >= self.plan.target)


def search(
    plan: Plan, trial: Callable[[Load, int, float], Point], on_point: Callable[[Sweep], None] | None = None
) -> Sweep:
    """Try loads until the limit is known. KeyboardInterrupt ends it with the points so far.

    Args:
        trial: offers a load of so many requests, for so many seconds at most.
        on_point: told after each point.
    """
    sweep = Sweep(plan)
    step = _next_rate if plan.axis == "rate" else _next_concurrency
    began = time.monotonic()
    try:
        while not sweep.ended:
            left = plan.budget - (time.monotonic() - began)
            load = step(sweep) if not _used_up(sweep, left) else None
            if load is None:
                break
            steps_left = max(1, plan.steps - len(sweep.points))
            point = trial(load, _requests(sweep, load), min(left, max(2 * left / steps_left, plan.budget / 25)))
            sweep.points.append(point)
            sweep.limit = _limit(sweep)
            if on_point:
                on_point(sweep)
            if point.cut:
                sweep.cut, sweep.ended = True, "it was cut"
    except KeyboardInterrupt:
        sweep.cut, sweep.ended = True, "it was cut"
    return sweep


def saturated(point: Point, points: list[Point]) -> bool:
    """Whether the server always had work: what it served then is its capacity."""
    if not point.load.closed:
        return point.stability.verdict is Verdict.OVERLOADED
    fewer = [each for each in points if each.load.closed and each.usable and 2 * each.load.value <= point.load.value]
    return any(0 < _PLATEAU * point.stability.served < each.stability.served for each in fewer)


def _requests(sweep: Sweep, load: Load) -> int:
    """Of the next point: as many as it takes for two of them to tell the capacity well, up to four times the plan's.

    The heavier the tail of the lengths, the more vary the rates at which saturated points were served. Points below
    the limit say little of where it is, so they get no more than a verdict takes.
    """
    plan, points = sweep.plan, [point for point in sweep.points if point.usable]
    error = _OF_TOLERANCE * plan.tolerance
    if load.closed:  # on the way to a rate a first guess will do
        if plan.axis == "rate":
            return min(int(_ROUNDS * load.value), plan.requests)
        if plan.target is not None or load.value <= _FEW:  # few at once take long for as many
            return plan.requests
        each = [
            (point.stability.served_error / point.stability.served) ** 2 * point.requests
            for point in points
            if point.stability.served
        ]
        wanted = sum(each) / len(each) / error**2 if each else 0
        return int(min(max(plan.requests, wanted), _MOST * plan.requests))
    needed = [
        (point.stability.served_error / point.stability.served / error) ** 2 * point.requests / 2
        for point in points
        if point.stability.served and saturated(point, points)
    ]
    wanted = sum(needed) / len(needed) if needed else 0
    below = sweep.limit is not None and load.value < sweep.limit.value
    return int(min(max(plan.requests, wanted), (_MOST_BELOW if below else _MOST) * plan.requests))


def _used_up(sweep: Sweep, left: float) -> bool:
    last = sweep.points[-_INVALID_IN_TURN:]
    if len(last) == _INVALID_IN_TURN and all(point.disturbed or _spoilt(sweep, point) for point in last):
        sweep.ended = "the client is the limit"
    elif len(sweep.points) >= sweep.plan.steps:
        sweep.ended = "the steps are used up"
    elif left < sweep.plan.budget / 50:
        sweep.ended = "the time is used up"
    return bool(sweep.ended)


def _spoilt(sweep: Sweep, point: Point) -> bool:
    of_axis = point.load.closed == (sweep.plan.axis == "concurrency")
    return sweep.plan.target is not None and of_axis and point.share is None


def _limit(sweep: Sweep) -> Limit | None:
    plan = sweep.plan
    usable = [point for point in sweep.points if point.usable]
    if plan.axis == "concurrency":
        if plan.target is not None:
            return crossing([(point.load.value, point.share) for point in usable], plan.target)
        return knee(
            [
                (point.load.value, point.stability.served, point.stability.served_error, point.requests)
                for point in usable
                if point.stability.served > 0
            ]
        )
    return limit_of(
        [
            Evidence(
                load=point.load.value, verdict=point.stability.verdict, served=point.stability.served,
                served_error=point.stability.served_error, saturated=saturated(point, usable), share=point.share,
                closed=point.load.closed, requests=point.requests,
            )
            for point in usable
        ],
        plan.target,
    )  # fmt: skip


def _next_rate(sweep: Sweep) -> Load | None:
    """None: the search has ended."""
    load, most = _wanted_rate(sweep), sweep.plan.max_rate
    if load is None or load.closed or most is None or load.value < most:
        return load
    holds = any(point.load.value >= 0.999 * most for point in sweep.held)
    if holds and (sweep.limit is None or sweep.limit.value > most):
        sweep.ended = "the highest rate allowed holds"
        return None
    return Load(most)


def _wanted_rate(sweep: Sweep) -> Load | None:
    """The next load, however high; None: the search has ended."""
    plan, points = sweep.plan, [point for point in sweep.points if point.usable]
    closed = [point for point in points if point.load.closed]
    opened = [point for point in points if not point.load.closed]
    if not opened:
        more = _more_at_once(sweep, closed)
        if more is not None:
            return more
    limit = sweep.limit
    if limit is None:
        highest = max((point.load.value for point in opened), default=0.0)
        top = max([highest, *(point.stability.served for point in points)], default=1.0) or 1.0
        return Load(top * (1.12 if not opened and not _linear(closed) else 2.0))
    if _settled(sweep, limit):
        sweep.ended = "the interval is narrow enough"
        return None
    near = any(point.load.value >= (1 - _NEAR) * limit.value for point in sweep.held)
    if opened and not near and plan.steps - len(sweep.points) <= 2:
        return Load(_apart(_SAFE * limit.value, [point.load.value for point in opened]))
    if plan.target is not None:
        shared = [point for point in opened if point.share is not None]
        if not shared:
            return Load(_SAFE * max(point.stability.served for point in points))
        if not sweep.held:
            return Load(0.6 * min(point.load.value for point in shared))
        if limit.by_slo > 0.5:
            return Load(_apart(limit.value, [point.load.value for point in opened]))
    above = [point for point in opened if point.load.value > limit.value]
    below = [point for point in opened if point.load.value <= limit.value]
    if len(above) < 2 * len(below):  # what overloaded points were served at says most
        return Load(limit.value * (1 + _beyond(sweep)))
    return Load(limit.value * (1 - _BELOW[min(len(below), len(_BELOW) - 1)]))


def _beyond(sweep: Sweep) -> float:
    """How far above what is believed the next load is, as a share: no nearer than where an overload surely shows.

    What a backlog rises by chance, as a share of the requests, falls with the square root of their number. A load just
    above capacity would say little: what was served then counts only if the server is known to have been busy always.
    """
    by_chance = [
        point.stability.excess / point.stability.growth * point.requests**0.5
        for point in sweep.of_axis
        if point.stability.excess is not None and point.stability.growth
    ]
    if not by_chance:
        return _ABOVE
    share = _SURELY * median(by_chance) / float(_requests(sweep, Load(float("inf")))) ** 0.5
    return float(min(max(share, _ABOVE_LEAST), _ABOVE_MOST))


def _more_at_once(sweep: Sweep, closed: list[Point]) -> Load | None:
    """The next closed loop for a first guess; None: it is known well enough."""
    if not closed:
        return Load(1, closed=True)
    last = closed[-1]
    grew = len(closed) < 2 or last.stability.served > _STILL_GROWS * closed[-2].stability.served
    following = min(last.load.value * _GROWTH, sweep.plan.max_concurrency)
    failed = last.stability.verdict is Verdict.OVERLOADED or sweep.points[-1].disturbed
    if failed or not grew or following <= last.load.value or len(closed) >= sweep.plan.steps - 2:
        return None
    return Load(following, closed=True)


def _linear(closed: list[Point]) -> bool:
    """Whether the last closed loop was far from saturation."""
    if len(closed) < 2:
        return True
    a, b = closed[-2:]
    return b.stability.served > _LINEAR * a.stability.served * b.load.value / a.load.value


def _settled(sweep: Sweep, limit: Limit) -> bool:
    held = any((1 - _NEAR) * limit.value <= point.load.value for point in sweep.held)
    over = any(
        point.load.value <= (1 + _NEAR) * limit.value
        for point in sweep.of_axis
        if point.stability.verdict in (Verdict.OVERLOADED, Verdict.BACKLOGGED) or not sweep.meets(point)
    )
    return limit.half_width <= sweep.plan.tolerance and held and over


def _apart(value: float, tried: list[float]) -> float:
    """`value`, or a little less if that was tried: another load tells more than the same again."""
    while any(abs(value / each - 1) < 0.004 for each in tried):
        value *= 0.99
    return value


def _next_concurrency(sweep: Sweep) -> Load | None:
    plan, points = sweep.plan, [point for point in sweep.points if point.usable]
    if not points:
        return Load(1, closed=True)
    loads = sorted(point.load.value for point in points)
    limit = sweep.limit
    if limit is None:
        if loads[-1] >= plan.max_concurrency:
            sweep.ended = "the highest concurrency allowed holds"
            return None
        if plan.target is not None and not sweep.held:
            sweep.ended = "even one request at a time misses the SLO"
            return None
        return Load(min(loads[-1] * 4, plan.max_concurrency), closed=True)
    if plan.target is None:
        wanted = _around_the_knee(limit, loads)
        done = limit.half_width <= plan.tolerance and len(loads) >= _KNEE_POINTS
    else:
        low = max((load for load in loads if load < limit.value), default=1)
        high = min((load for load in loads if load >= limit.value), default=loads[-1])
        wanted = round((low * high) ** 0.5)
        done = high / low <= 1 + 2 * plan.tolerance
    if done or wanted is None or wanted in loads:
        sweep.ended = "the interval is narrow enough"
        return None
    return Load(wanted, closed=True)


def _around_the_knee(limit: Limit, loads: list[float]) -> int | None:
    """Below, above and at the knee in turn, where the line bends and its asymptotes are told; None: all were tried."""
    for spread in _AROUND:
        for share in (1 / spread, spread, 1.0):
            load = max(1, round(limit.value * share))
            if load <= loads[-1] and all(abs(log(load / each)) > log(spread) / 2 for each in loads):
                return load
    return None
