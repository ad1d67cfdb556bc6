"""From settings to what a measurement is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError
from penstock.lab.bench.arrivals import ClosedLoop, Gamma
from penstock.lab.bench.endpoint import Endpoint
from penstock.lab.bench.offer import Manner
from penstock.lab.bench.probe import probe
from penstock.lab.bench.slo import Slo
from penstock.lab.bench.workloads.plain import Words

if TYPE_CHECKING:
    from penstock.lab.bench.arrivals import Arrivals
    from penstock.lab.bench.settings import BenchSettings
    from penstock.lab.bench.workloads.base import Workload

_CONCURRENCY = 4
_WARM_UP_SHARE = 0.1  # of an open loop's requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """All that `measure` takes, and what the probe had to say."""

    endpoint: Endpoint
    workload: Workload
    arrivals: Arrivals
    manner: Manner
    count: int | None
    slo: Slo | None
    notes: tuple[str, ...]


def set_up(settings: BenchSettings) -> Setup:
    """Read everything that can be wrong in `settings`, then find the endpoint and probe it.

    Raises:
        InvalidRequestError: a setting that can't be, or an endpoint that isn't what it says.
        NotFoundError: no endpoint, or no model of that name.
    """
    slo = None if settings.slo is None else Slo.parse(settings.slo)
    arrivals, workload = make_arrivals(settings), make_workload(settings)
    endpoint, notes = make_endpoint(settings)
    count, duration = settings.limits
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
    return Setup(
        endpoint=endpoint, workload=workload, arrivals=arrivals, manner=manner, count=count, slo=slo, notes=notes
    )


def make_endpoint(settings: BenchSettings) -> tuple[Endpoint, tuple[str, ...]]:
    """Found and probed, with what the probe had to say."""
    found = Endpoint.open(
        settings.url, api="completions" if settings.api == "auto" else settings.api,  # type: ignore[arg-type]
        model=settings.model, key=settings.api_key, headers=dict(settings.header), body=settings.body,
        ignore_eos=settings.ignore_eos is not False,
    )  # fmt: skip
    any_end = settings.ignore_eos is None
    probed = probe(found, any_api=settings.api == "auto", any_end=any_end, timeout=min(settings.timeout, 120.0))
    return probed.endpoint, probed.notes


def make_arrivals(settings: BenchSettings) -> Arrivals:
    """Raises InvalidRequestError for a rate or burstiness out of range."""
    if settings.rate is None:
        return ClosedLoop(settings.concurrency or _CONCURRENCY)
    known = {"constant": 0.0, "poisson": 1.0}
    burstiness = settings.burstiness if settings.burstiness is not None else known[settings.arrivals or "poisson"]
    return Gamma(settings.rate, burstiness)


def make_workload(settings: BenchSettings) -> Workload:
    """Raises InvalidRequestError if there is no such workload, or it can't be as the settings want it."""
    return Words(settings.seed, int(settings.input_tokens or 128), int(settings.output_tokens or 64))


def _warm_up(arrivals: Arrivals, count: int | None, duration: float | None) -> int:
    """A closed loop's first round, as it starts all at once; a tenth of an open loop's requests."""
    if isinstance(arrivals, ClosedLoop):
        return arrivals.concurrency if count is None else min(arrivals.concurrency, count // 2)
    offered = count if count is not None else int((arrivals.rate or 0.0) * (duration or 0.0))
    return int(offered * _WARM_UP_SHARE)
