"""One measurement: the same load offered several times, each time judged for the client's own part in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

from penstock.lab.bench.arrivals import ClosedLoop, schedule
from penstock.lab.bench.observations import Ending
from penstock.lab.bench.offer import Manner, offer
from penstock.lab.bench.validity import judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from penstock.lab.bench.arrivals import Arrivals
    from penstock.lab.bench.endpoint import Endpoint
    from penstock.lab.bench.observations import Observations
    from penstock.lab.bench.offer import Progress
    from penstock.lab.bench.planned import Planned
    from penstock.lab.bench.scrape import Scraper
    from penstock.lab.bench.slo import Slo
    from penstock.lab.bench.workloads.base import Workload


class Offering(Protocol):
    """What sends requests and notes what comes back, as `offer` does."""

    def __call__(
        self,
        endpoint: Endpoint,
        requests: Iterable[Planned],
        manner: Manner,
        *,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Observations:
        """As `offer`."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Measured:
    """What came of it. A run's `meta` holds its `repeat` and `seed`, whether it was `cut`, and why it is `invalid`."""

    endpoint: Endpoint
    workload: Workload
    arrivals: Arrivals
    manner: Manner
    count: int | None
    slo: Slo | None
    runs: list[Observations]

    @property
    def invalid(self) -> list[str]:
        """Why it can't be believed; empty if it can."""
        return [reason for run in self.runs for reason in run.meta["invalid"]]

    @property
    def cut(self) -> bool:
        """Whether it was ended before its time."""
        return any(run.meta["cut"] for run in self.runs)


def measure(
    endpoint: Endpoint,
    workload: Workload,
    arrivals: Arrivals,
    manner: Manner,
    *,
    count: int | None = None,
    repeats: int = 1,
    slo: Slo | None = None,
    scraper: Scraper | None = None,
    on_progress: Callable[[int, Progress], None] | None = None,
    offering: Offering = offer,
) -> Measured:
    """Offer `workload` as `arrivals` say, `repeats` times.

    Repeat r, from 0, takes the workload's seed + r for requests and arrivals: what one repeat leaves in a prefix cache
    is no help to the next. A workload whose requests are a file's sends the same each time.

    Args:
        count: requests of each repeat, warm-up included; None: until `manner.duration` is over or they are used up.
        scraper: reads the server's own metrics beside; they go to `meta["server"]`.
        on_progress: called with the repeat's number and how far it is.
        offering: who offers it: this process, or several (`spread`), which then judge their own parts.

    Ctrl-C ends it: the repeat under way is cut, no further one begins.

    Raises:
        InvalidRequestError: the endpoint's API can't ask for what the workload wants.
        NativeError: the operating system refuses what the generator needs.
        KeyboardInterrupt: before anything was sent.
    """
    if isinstance(arrivals, ClosedLoop):
        manner = replace(manner, slots=arrivals.concurrency)
    runs: list[Observations] = []
    for repeat in range(repeats):
        mine = for_repeat(workload, repeat)
        requests = schedule(mine.requests(), arrivals, mine.seed, count)
        told = None if on_progress is None else _bind(on_progress, repeat)
        try:
            run = _offered(offering, endpoint, requests, manner, scraper, told)
        except KeyboardInterrupt:
            if not runs:
                raise
            runs[-1].meta["cut"] = True
            break
        run.meta.update(repeat=repeat, seed=mine.seed)
        if "invalid" not in run.meta:
            run.meta["invalid"] = list(judge(run))
        runs.append(run)
        if run.meta["cut"]:
            break
    return Measured(
        endpoint=endpoint, workload=workload, arrivals=arrivals, manner=manner, count=count, slo=slo, runs=runs
    )


def _offered(
    offering: Offering,
    endpoint: Endpoint,
    requests: Iterable[Planned],
    manner: Manner,
    scraper: Scraper | None,
    on_progress: Callable[[Progress], None] | None,
) -> Observations:
    if scraper is None:
        return offering(endpoint, requests, manner, on_progress=on_progress)
    with scraper.window() as window:
        run = offering(endpoint, requests, manner, on_progress=on_progress)
    scraper.settle(window, run.meta.get("whole", int((run.ending == Ending.WHOLE).sum())))
    run.meta["server"] = window.describe(run.meta["started_monotonic"])
    return run


def for_repeat(workload: Workload, repeat: int) -> Workload:
    """The workload of another seed."""
    if repeat == 0:
        return workload
    changed: Any = cast("Any", workload)  # workloads are dataclasses, which the protocol can't say
    return cast("Workload", replace(changed, seed=workload.seed + repeat))


def _bind(on_progress: Callable[[int, Progress], None], repeat: int) -> Callable[[Progress], None]:
    return lambda progress: on_progress(repeat, progress)
