"""From settings to what a measurement is made of."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from penstock.core.errors import InvalidRequestError
from penstock.lab.bench.arrivals import ClosedLoop, Gamma, Stages
from penstock.lab.bench.endpoint import Endpoint
from penstock.lab.bench.offer import Manner
from penstock.lab.bench.probe import probe
from penstock.lab.bench.run import for_repeat
from penstock.lab.bench.settings import DURATION_S
from penstock.lab.bench.slo import Slo
from penstock.lab.bench.told import Told, what_it_tells
from penstock.lab.bench.workloads import make, parse_workload
from penstock.lab.bench.workloads.wordlist import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.lab.bench.arrivals import Arrivals
    from penstock.lab.bench.planned import Planned
    from penstock.lab.bench.settings import BenchSettings
    from penstock.lab.bench.workloads.base import Workload

_CONCURRENCY = 4
_REPEATS = 3  # of what doesn't follow a trace
_WARM_UP_SHARE = 0.1  # of an open loop's requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked and when, of whomever."""

    workload: Workload
    arrivals: Arrivals
    manner: Manner
    count: int | None
    repeats: int
    slo: Slo | None

    @property
    def seconds(self) -> float | None:
        """For which each repeat sends; None: until its requests are used up."""
        stages = self.arrivals.seconds if isinstance(self.arrivals, Stages) else None
        return min((each for each in (self.manner.duration, stages) if each is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup(Load):
    """All that `measure` takes, and what the probe had to say."""

    endpoint: Endpoint
    notes: tuple[str, ...]
    told: Told = field(default_factory=Told)  # by the server, of itself


def set_up(settings: BenchSettings) -> Setup:
    """Read everything that can be wrong in `settings`, then find the endpoint and probe it.

    Raises:
        InvalidRequestError: a setting that can't be, or an endpoint that isn't what it says.
        NotFoundError: no endpoint, or no model of that name.
    """
    load = make_load(settings)
    endpoint, notes = make_endpoint(settings, load.workload)
    return Setup(
        endpoint=endpoint, workload=load.workload, arrivals=load.arrivals, manner=load.manner, count=load.count,
        repeats=load.repeats, slo=load.slo, notes=notes, told=what_it_tells(endpoint),
    )  # fmt: skip


def make_load(settings: BenchSettings) -> Load:
    """Raises InvalidRequestError for a setting that can't be."""
    slo = None if settings.slo is None else Slo.parse(settings.slo)
    workload, timed = make_workload(settings)
    arrivals = make_arrivals(settings, timed=timed)
    ends = isinstance(arrivals, OwnTimes | Stages)  # by itself
    if timed and not isinstance(arrivals, OwnTimes):
        workload = Untimed(workload, workload.seed)
    count, duration = settings.requests, settings.duration
    if count is None and duration is None and not ends:
        duration = DURATION_S
    repeats = settings.repeats or (1 if isinstance(arrivals, OwnTimes) else _REPEATS)
    warm_up = settings.warm_up
    if warm_up is None:
        warm_up = _warm_up(arrivals, count, duration)
    if count is not None and warm_up >= count:
        raise InvalidRequestError(
            f"Of {count} requests, {warm_up} would warm up and none be left to count: ask for more --requests or less"
            " --warm-up.",
            param="warm_up",
        )
    manner = Manner(
        duration=duration, timeout=settings.timeout, keep_alive=settings.keep_alive, warm_up=warm_up
    )  # fmt: skip
    return Load(workload=workload, arrivals=arrivals, manner=manner, count=count, repeats=repeats, slo=slo)


def make_endpoint(settings: BenchSettings, workload: Workload) -> tuple[Endpoint, tuple[str, ...]]:
    """Found and probed, with what the probe had to say. What is said in turns can only be put to a chat."""
    any_api = settings.api == "auto" and not is_chat(workload)
    api = "completions" if any_api else "chat" if settings.api == "auto" else settings.api
    found = Endpoint.open(
        settings.url, api=api,  # type: ignore[arg-type]
        model=settings.model, key=settings.api_key, headers=dict(settings.header), body=settings.body,
        ignore_eos=settings.ignore_eos is not False, ca=settings.ca,
    )  # fmt: skip
    any_end = settings.ignore_eos is None
    probed = probe(found, any_api=any_api, any_end=any_end, timeout=min(settings.timeout, 120.0))
    return probed.endpoint, probed.notes


def is_chat(workload: Workload) -> bool:
    """Whether what it asks can only be put to a chat: messages, or turns."""
    first = next(iter(workload.requests()), None)
    if first is None:
        return False
    return bool(first.turns) or any(isinstance(part, dict) for part in first.prompt[:1])


def make_arrivals(settings: BenchSettings, *, timed: bool = False) -> Arrivals:
    """Of the settings, else of the workload if that is `timed`, else a small closed loop.

    Raises InvalidRequestError for a rate, a stage or a burstiness out of range.
    """
    known = {"constant": 0.0, "poisson": 1.0}
    burstiness = settings.burstiness if settings.burstiness is not None else known[settings.arrivals or "poisson"]
    if settings.rate is not None:
        return Gamma(settings.rate, burstiness)
    if settings.steps is not None:
        return Stages.parse(settings.steps, burstiness)
    if settings.ramp is not None:
        start, _, end = settings.ramp.partition(":")
        try:
            rates = float(start), float(end)
        except ValueError:
            raise InvalidRequestError(
                f"A ramp is two rates, FROM:TO, such as 1:10; got {settings.ramp!r}.", param="ramp"
            ) from None
        return Stages.ramp(*rates, settings.duration or DURATION_S, burstiness)
    if timed and settings.concurrency is None:
        return OwnTimes()
    return ClosedLoop(settings.concurrency or _CONCURRENCY, settings.ramp_up or 0.0)


def make_workload(settings: BenchSettings) -> tuple[Workload, bool]:
    """The workload, and whether its requests have times of their own.

    Raises InvalidRequestError if there is no such workload, or it can't be as the settings want it.
    """
    name, options = parse_workload(settings.workload)
    for length in ("input_tokens", "output_tokens"):
        given = getattr(settings, length)
        if given is not None:
            if length in options:
                raise InvalidRequestError(f"{length} is given both in --workload and by itself.", param=length)
            options[length] = given
    tokenizer = None if settings.tokenizer is None else load_tokenizer(settings.tokenizer)
    workload = make(name, options, settings.seed, tokenizer)
    first = next(iter(workload.requests()), None)
    if first is None:
        raise InvalidRequestError(f"The workload {settings.workload} holds no requests.", param="workload")
    return workload, first.due is not None


@dataclass(frozen=True, slots=True)
class OwnTimes:
    """A trace's requests, when the trace has them."""

    @property
    def rate(self) -> None:
        return None

    def times(self, seed: int) -> None:  # noqa: ARG002 - the protocol's signature
        return None

    def describe(self) -> dict[str, Any]:
        return {"arrivals": "trace"}


@dataclass(frozen=True, slots=True)
class Untimed:
    """A trace's requests without their times, for another load."""

    trace: Workload
    seed: int

    @property
    def name(self) -> str:
        return self.trace.name

    def describe(self) -> dict[str, Any]:
        return self.trace.describe() | {"own_times": False}

    def requests(self) -> Iterator[Planned]:
        for planned in for_repeat(self.trace, self.seed - self.trace.seed).requests():
            yield replace(planned, due=None)


def _warm_up(arrivals: Arrivals, count: int | None, duration: float | None) -> int:
    """A closed loop's first round, as it starts all at once; a tenth of an open loop's requests."""
    if isinstance(arrivals, ClosedLoop):
        return arrivals.concurrency if count is None else min(arrivals.concurrency, count // 2)
    seconds = arrivals.seconds if isinstance(arrivals, Stages) else duration or 0.0
    offered = count if count is not None else int((arrivals.rate or 0.0) * seconds)
    return int(offered * _WARM_UP_SHARE)
