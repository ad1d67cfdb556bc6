"""One point of a sweep, offered to a real endpoint."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.core.errors import InvalidRequestError
from penstock.lab.bench.arrivals import ClosedLoop, Gamma
from penstock.lab.bench.bounds import what_bound
from penstock.lab.bench.metrics import latencies, meets
from penstock.lab.bench.observations import Ending
from penstock.lab.bench.offer import Manner, offer
from penstock.lab.bench.run import for_repeat, measure
from penstock.lab.bench.stability import judge, judge_closed, steady_share
from penstock.lab.bench.tried import Load, Point

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from penstock.lab.bench.endpoint import Endpoint
    from penstock.lab.bench.observations import Observations
    from penstock.lab.bench.offer import Progress
    from penstock.lab.bench.planned import Planned
    from penstock.lab.bench.run import Offering
    from penstock.lab.bench.scrape import Scraper
    from penstock.lab.bench.slo import Slo
    from penstock.lab.bench.workloads.base import Workload

_FILLING = 0.2  # of a run: the server fills up, so its requests have no latencies
_LEAST_REQUESTS = 100
_ROUNDS = 6  # of a closed loop, at least
_RESPONSES = 50  # that an open loop lasts, if there is time: only then a steady number in the system shows as such
_GIVE_UP_SHARE = 0.25  # of the requests of a point that wait: it is overloaded beyond doubt
_DISTURBED = 0.02  # of a run's length, late with one request in a hundred
_STALLED = 0.05  # of a run's length, in one go: shows as a backlog of as many of its requests
_SPOILT = 0.1  # of an SLO's bound
_CPU = 0.9  # of the generator's thread
_DRAIN_S = 5.0  # at least


@dataclass(frozen=True, slots=True)
class Endless:
    """A workload that begins again when it is used up, without times of its own."""

    inner: Workload
    seed: int

    @property
    def name(self) -> str:
        return self.inner.name

    def describe(self) -> dict[str, Any]:
        return self.inner.describe()

    def requests(self) -> Iterator[Planned]:
        inner = for_repeat(self.inner, self.seed - self.inner.seed)
        while True:
            some = False
            for planned in inner.requests():
                some = True
                yield replace(planned, due=None)
            if not some:
                return


@dataclass(slots=True, eq=False, kw_only=True)
class Trials:
    """Offers loads to one endpoint and judges them: what `sweep.search` calls.

    Each point takes a seed of its own, so that none finds its prompts in a cache that the one before has filled.
    """

    endpoint: Endpoint
    workload: Workload
    slo: Slo | None = None
    burstiness: float = 1.0  # of arrivals; 1: Poisson
    manner: Manner = field(default_factory=Manner)
    scraper: Scraper | None = None
    offering: Offering = offer
    on_progress: Callable[[Load, float, Progress], None] | None = None  # a load, for so many seconds
    _tried: list[Point] = field(default_factory=list)
    _checked: bool = False

    def __call__(self, load: Load, requests: int, seconds: float) -> Point:
        """Offer `load` with so many requests, for `seconds` at most.

        Raises:
            InvalidRequestError: conversations are offered at a rate; what `measure` raises.
        """
        workload = Endless(self.workload, self.workload.seed + len(self._tried))
        if not self._checked and not load.closed:
            self._check(workload)
        manner, count, seconds = self._manner(load, requests, seconds)
        arrivals = ClosedLoop(int(load.value)) if load.closed else Gamma(load.value, self.burstiness)
        told = self.on_progress
        measured = measure(
            self.endpoint, workload, arrivals, manner, count=count, slo=self.slo, scraper=self.scraper,
            on_progress=None if told is None else lambda _repeat, progress: told(load, seconds, progress),
            offering=self.offering,
        )  # fmt: skip
        run = measured.runs[0]
        response = (run.end - run.due)[run.ending == Ending.WHOLE]
        point = Point(
            load=load,
            stability=judge_closed(run) if load.closed else judge(run),
            share=None if self.slo is None or _spoils(run, self.slo) else steady_share(run, within(run, self.slo)),
            requests=len(run),
            response=float(response.mean()) if len(response) else 0.0,
            invalid=tuple(measured.invalid),
            disturbed=_disturbed(run),
            cut=measured.cut,
            measured=measured,
        )
        point = replace(point, bound=what_bound(point, self._tried))
        self._tried.append(point)
        return point

    def _check(self, workload: Workload) -> None:
        first = next(iter(workload.requests()), None)
        if first is not None and first.turns:
            raise InvalidRequestError(
                "Later turns of a conversation wait for the server, so conversations have no offered rate; sweep their"
                " number instead: --axis concurrency.",
                param="axis",
            )
        self._checked = True

    def _manner(self, load: Load, requests: int, seconds: float) -> tuple[Manner, int | None, float]:
        """How to offer it, how many, and how long that takes at most."""
        response = next((point.response for point in self._tried if point.response), 0.0)  # of the quietest point
        if load.closed:
            count = max(_LEAST_REQUESTS, _ROUNDS * int(load.value), requests)
            seconds = max(seconds, 3 * response)
            warm_up, give_up = int(load.value), None
        else:
            count = None
            seconds = min(seconds, max(requests / load.value, _RESPONSES * response))
            offered = load.value * seconds
            warm_up = int(_FILLING * offered)
            give_up = int(4 * load.value * response + _GIVE_UP_SHARE * offered + _LEAST_REQUESTS)
        drain = max(_DRAIN_S, 3 * response, seconds if not load.closed else 0.0)
        manner = replace(
            self.manner, duration=seconds, warm_up=warm_up, give_up=give_up, drain=min(drain, self.manner.timeout)
        )
        return manner, count, seconds


def _disturbed(run: Observations) -> bool:
    """Whether the client's delays, or its want of CPU, were so great that they may have made or hidden a backlog.

    A few milliseconds spoil a TTFT and are nothing beside a run.
    """
    client, length = run.meta["client"], float(run.due.max() - run.due.min()) if len(run) else 0.0
    late, stalled = client["schedule_delay_p99"] > _DISTURBED * length, client["loop_lag_max"] > _STALLED * length
    return bool(late or stalled or client["cpu"] > _CPU * client["wall"])


def _spoils(run: Observations, slo: Slo) -> bool:
    """Whether the client's own delays are more than a tenth of one of the SLO's bounds.

    A bound is a fixed time, so it is what they are held against, and not the latencies of a quiet server.
    """
    client = run.meta["client"]
    lag = client["loop_lag_p99"]
    delays = {"ttft": client["schedule_delay_p99"] + lag, "e2e": client["schedule_delay_p99"] + lag}
    return any(delays.get(name, lag) > _SPOILT * bound for name, bound in slo.bounds)


def within(run: Observations, slo: Slo) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """[n] which requests of `run` were answered whole and met the SLO, warm-up or not."""
    every = replace(run, warm_up=np.zeros(len(run), bool))
    met = np.zeros(len(run), bool)
    met[run.ending == Ending.WHOLE] = meets(latencies(every), slo)
    return met
