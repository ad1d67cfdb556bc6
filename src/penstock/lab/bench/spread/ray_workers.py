"""One run by several workers on Ray: an `Offering` for `run.measure`.

The plan is made here and its parts are sent ahead. When every worker has prepared enough, all are told the instant at
which to start, each by its own clock. A worker that is lost ends the run for all, as what is offered is no longer what
was asked; what the others saw until then is kept.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayTaskError

from penstock.core.errors import ConfigError, InvalidRequestError, PenstockError
from penstock.lab.bench.metrics import window_between
from penstock.lab.bench.offer import Progress
from penstock.lab.bench.spread.clocks import Offset, apart, exchange, residual
from penstock.lab.bench.spread.cluster import first_line
from penstock.lab.bench.spread.figures import Tally, latency_metrics, tally
from penstock.lab.bench.spread.merge import meta_of, together, without_columns
from penstock.lab.bench.spread.split import Parts, manners
from penstock.lab.bench.validity import clocks_apart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from penstock.lab.bench.endpoint import Endpoint
    from penstock.lab.bench.observations import Observations
    from penstock.lab.bench.offer import Manner
    from penstock.lab.bench.planned import Planned
    from penstock.lab.bench.slo import Slo
    from penstock.lab.bench.spread.cluster import Member
    from penstock.lab.bench.spread.merge import Brief

_T = TypeVar("_T")
_LEAD_S = 0.3  # from telling the start to it
_TURN_S = 0.1
_POLL_S = 0.2  # between two questions how far a worker is
_SILENT_S = 20.0  # without an answer: a worker whose network is gone, which Ray notices after a minute
_COLUMNS_BYTES = 256 << 20  # of all workers' columns: fetched without being asked for


class Spread:
    """Offers loads by all of `members`.

    Args:
        slo: that answers are held to, as each worker judges its own.
        raw: fetch every request's columns; None: if they are 256 MiB at most. Without them a run has figures alone.
    """

    def __init__(self, members: Sequence[Member], *, slo: Slo | None = None, raw: bool | None = None) -> None:
        self._members = members
        self._slo = slo
        self._raw = raw

    def __call__(
        self,
        endpoint: Endpoint,
        requests: Iterable[Planned],
        manner: Manner,
        *,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Observations:
        """As `offer`; `meta["spread"]` tells of the workers, `meta["invalid"]` why they can't be believed.

        Raises:
            InvalidRequestError: a load that can't be divided, or an address that other machines don't know.
            NotFoundError: a worker can't reach the server.
            ConfigError: a worker was lost before the start.
            PenstockError: what a worker's `offer` raises.
        """
        members = self._members
        each = manners(manner, len(members))
        if ip_address(endpoint.ip).is_loopback and not all(member.here for member in members):
            raise InvalidRequestError(
                f"{endpoint.base} is this machine to itself, and some workers are on others: give the address by which"
                " they know it.",
                param="url",
            )
        try:
            _answers(member.actor.prepare.remote(endpoint, mine) for member, mine in zip(members, each, strict=True))
            offsets = {number: _compare(member) for number, member in enumerate(members)}
        except RayActorError as error:  # since the last run
            raise ConfigError(f"A worker was lost before the start: {first_line(error)}", code="worker_lost") from error
        run = _Run(members, Parts(requests, len(members), manner.slots), offsets, on_progress)
        run.offer(endpoint, each)
        return self._finish(run)

    def _finish(self, run: _Run) -> Observations:
        after = {
            number: _ask(run, number, lambda number: _compare(self._members[number])) for number in list(run.briefs)
        }
        tallies, meta = self._tallies(run)
        whole = tallies[0] if tallies else tally(without_columns([], meta), (0.0, 0.0, True), 0.0, self._slo)
        for part in tallies[1:]:
            whole.add(part)
        nbytes = sum(brief.nbytes for brief in run.briefs.values())
        parts: list[Observations] = []
        if self._raw or (self._raw is None and nbytes <= _COLUMNS_BYTES):
            found = [_ask(run, number, self._columns) for number in list(run.briefs)]
            parts = [part for part in found if part is not None]
        meta["spread"] = {
            "workers": [self._describe(run, number, after.get(number)) for number in range(len(self._members))],
            "columns": bool(parts),
            "tally": whole.describe(),
        }
        meta["invalid"] = self._judge(run, after, whole)
        if parts and len(parts) == len(run.briefs):
            return together(parts, meta)
        return without_columns(list(run.briefs.values()), meta)

    def _columns(self, number: int) -> Observations:
        seen: Observations = ray.get(self._members[number].actor.columns.remote())
        return seen

    def _tallies(self, run: _Run) -> tuple[list[Tally], dict[str, Any]]:
        """Of all workers that are still there, and the run's `meta`, which is of those too."""
        while True:
            briefs = list(run.briefs.values())
            meta = meta_of(briefs, run.started, run.start_ns / 1e9, cut=run.interrupted or bool(run.lost))
            begins = [brief.extent[0] for brief in briefs if brief.extent[0] is not None]
            lasts = [brief.extent[1] for brief in briefs if brief.extent[1] is not None]
            span = window_between(min(begins, default=None), max(lasts, default=None), meta)
            until = max((brief.until for brief in briefs), default=0.0)
            refs = {n: self._members[n].actor.tally.remote(span, until, self._slo) for n in run.briefs}
            found: list[Tally | None] = [_ask(run, n, lambda n: ray.get(refs[n])) for n in refs]  # noqa: B023
            if len(run.briefs) == len(refs):
                return [each for each in found if each is not None], meta

    def _describe(self, run: _Run, number: int, after: Offset | None) -> dict[str, Any]:
        about, before = self._members[number].about, run.offsets[number]
        told: dict[str, Any] = {
            "worker": number + 1,
            "host": about["host"],
            "here": self._members[number].here,
            "clock_ahead": before.ahead / 1e9,
            "clock_uncertainty": before.uncertainty / 1e9,
            "clock_drift": None if after is None else (after.ahead - before.ahead) / 1e9,
            "lost": run.lost.get(number),
        }
        if (brief := run.briefs.get(number)) is not None:
            told |= {"requests": brief.requests, "client": brief.meta["client"], "invalid": list(brief.invalid)}
        if not self._members[number].here:
            told["machine"] = about["machine"]
        return told

    def _judge(self, run: _Run, after: dict[int, Offset | None], whole: Tally) -> list[str]:
        reasons = [
            f"Worker {number + 1} on {self._members[number].about['host']} was lost: {reason} What it saw is missing,"
            " so that counts and rates are of the others alone."
            for number, reason in run.lost.items()
        ]
        for number, brief in run.briefs.items():
            where = f"Worker {number + 1} on {self._members[number].about['host']}: "
            reasons += [where + reason for reason in brief.invalid]
        between = apart(residual(run.offsets[number], after.get(number)) for number in run.briefs) / 1e9
        ttft = next((metric.p99 for metric in latency_metrics([whole]) if metric.name == "ttft"), 0.0)
        if (reason := clocks_apart(between, ttft)) is not None:
            reasons.append(reason)
        return reasons


@dataclass(slots=True, eq=False)
class _Run:
    """Driving the workers through one run."""

    members: Sequence[Member]
    parts: Parts
    offsets: dict[int, Offset]
    on_progress: Callable[[Progress], None] | None
    briefs: dict[int, Brief] = field(default_factory=dict)  # by worker; of those that have ended and are there
    lost: dict[int, str] = field(default_factory=dict)  # by worker: why
    interrupted: bool = False
    start_ns: int = 0  # on this process's monotonic clock; 0: not yet
    started: float = 0.0  # Unix time
    _asked: dict[Any, tuple[str, int]] = field(default_factory=dict)  # references of what was asked: what, and of whom
    _progress: dict[int, Progress] = field(default_factory=dict)
    _heard: dict[int, float] = field(default_factory=dict)  # by worker: when it last said how far it is
    _next_poll: float = 0.0

    def offer(self, endpoint: Endpoint, manners: Sequence[Manner]) -> None:
        """Until all is over. Raises what a worker's offer raises, or KeyboardInterrupt before the start."""
        try:
            for number, (member, manner) in enumerate(zip(self.members, manners, strict=True)):
                self._asked[member.actor.offer.remote(endpoint, manner)] = "offer", number
                self._asked[member.actor.prepared.remote()] = "prepared", number
                self._put(number)
            while self._waits_for("prepared") and self._waits_for("offer"):
                self._turn()
            if not self.lost:
                self._start()
            while self._waits_for("offer"):
                self._turn()
            if not self.start_ns:
                number, reason = next(iter(self.lost.items()))
                raise ConfigError(
                    f"Worker {number + 1} on {self.members[number].about['host']} was lost before the start: {reason}",
                    code="worker_lost",
                )
            self._tell_all()
        except KeyboardInterrupt:
            self.interrupted = True
            self._end()
            if not self.start_ns:
                raise
        except PenstockError:
            self._end()
            raise

    def _end(self) -> None:
        self._cut()
        while self._waits_for("offer"):
            self._turn()

    def _waits_for(self, what: str) -> bool:
        return any(asked == what for asked, _ in self._asked.values())

    def _start(self) -> None:
        start_ns = time.monotonic_ns() + int(_LEAD_S * 1e9)
        self.started = time.time() + _LEAD_S
        for number, member in enumerate(self.members):
            member.actor.start.remote(self.offsets[number].there(start_ns))
        self.start_ns = start_ns

    def _cut(self) -> None:
        for number, member in enumerate(self.members):
            if number not in self.lost:
                member.actor.cut.remote()

    def _put(self, number: int) -> None:
        self._asked[self.members[number].actor.put.remote(self.parts.chunk(number))] = "put", number

    def _turn(self) -> None:
        """Wait for the next answer, and do what follows from it."""
        now = time.monotonic()
        if self.start_ns and now >= self._next_poll:
            self._next_poll = now + _POLL_S
            self._tell(now)
            busy = {number for what, number in self._asked.values() if what == "progress"}
            for number in {number for what, number in self._asked.values() if what == "offer"} - busy:
                self._asked[self.members[number].actor.progress.remote()] = "progress", number
                self._heard[number] = now
            for number in busy:
                if now - self._heard[number] > _SILENT_S:
                    self.lose(number, f"It gave no answer for {_SILENT_S:.0f} s.")
        done, _ = ray.wait(list(self._asked), num_returns=1, timeout=_TURN_S)
        for ref in done:
            what, number = self._asked.pop(ref)
            try:
                self._take(what, number, ray.get(ref))
            except RayTaskError as error:
                if isinstance(error.cause, PenstockError):
                    raise error.cause from None
                raise
            except RayActorError as error:
                self.lose(number, first_line(error))

    def _take(self, what: str, number: int, answer: Any) -> None:
        if what == "offer" and answer is not None:
            self.briefs[number] = answer
        elif what == "put" and answer:
            self._put(number)
        elif what == "progress" and answer is not None:
            self._progress[number] = answer

    def lose(self, number: int, reason: str) -> None:
        """A worker is gone: the run is over for all."""
        if number in self.lost:
            return
        self.lost[number] = reason
        self.briefs.pop(number, None)
        self._asked = {ref: asked for ref, asked in self._asked.items() if asked[1] != number}
        self._cut()

    def _tell_all(self) -> None:
        """How it ended."""
        for number in list(self.briefs):
            last = _ask(self, number, lambda number: ray.get(self.members[number].actor.progress.remote()))
            if last is not None:
                self._progress[number] = last
        self._tell(time.monotonic())

    def _tell(self, now: float) -> None:
        if self.on_progress is None or self.interrupted or not self._progress:
            return
        each = list(self._progress.values())
        ttfts = sorted(progress.ttft for progress in each if progress.ttft is not None)
        self.on_progress(
            Progress(
                elapsed=now - self.start_ns / 1e9,
                sent=sum(progress.sent for progress in each),
                finished=sum(progress.finished for progress in each),
                failed=sum(progress.failed for progress in each),
                in_flight=sum(progress.in_flight for progress in each),
                tokens=sum(progress.tokens for progress in each),
                ttft=ttfts[len(ttfts) // 2] if ttfts else None,
            )
        )


def _compare(member: Member) -> Offset:
    def read() -> int:
        ns: int = ray.get(member.actor.now.remote())
        return ns

    return exchange(read)


def _answers(refs: Iterable[Any]) -> None:
    """Wait for all; raise what a worker has to say."""
    try:
        ray.get(list(refs))
    except RayTaskError as error:
        if isinstance(error.cause, PenstockError):
            raise error.cause from None
        raise


def _ask(run: _Run, number: int, question: Callable[[int], _T]) -> _T | None:
    """The answer of a worker; None, with the worker marked as lost, if it is gone."""
    try:
        return question(number)
    except RayActorError as error:
        run.lose(number, first_line(error))
        return None
