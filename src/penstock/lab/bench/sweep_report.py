"""What came of a sweep: a sentence, a record, and what its page shows."""

from __future__ import annotations

import datetime
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from penstock.core.machine import fingerprint
from penstock.core.provenance import command_of, package_versions
from penstock.core.record import Attachment, Flaw, Interval, Metric, Record, git_state
from penstock.core.record import Workload as RecordedWorkload
from penstock.lab.bench.capacity import LEVEL
from penstock.lab.bench.metrics import latencies, totals
from penstock.lab.bench.records import metrics_of, save
from penstock.lab.bench.stability import Verdict
from penstock.lab.pages.estimates import Estimate
from penstock.lab.pages.sweep_page import SweepPage, SweepPoint
from penstock.lab.pages.units import figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from penstock.core.record import Subject
    from penstock.lab.bench.slo import Slo
    from penstock.lab.bench.sweep import Sweep
    from penstock.lab.bench.tried import Point
    from penstock.lab.bench.workloads.base import Workload

_QUOTED = (("ttft", "p50"), ("ttft", "p99"), ("tpot", "p50"), ("tpot", "p99"))


def _unproven(sweep: Sweep) -> str:
    if not sweep.inconclusive:
        return "No load was shown to hold."
    why = min(point.stability.reason for point in sweep.of_axis)
    return f"No load was shown to hold, nor to be too much. ({why}) A longer --budget tells more."


def unit_of(sweep: Sweep) -> str:
    """Of the axis."""
    return "requests/s" if sweep.plan.axis == "rate" else "requests at once"


def said(sweep: Sweep, slo: Slo | None = None) -> str:
    """The result in one or two sentences."""
    unit, limit, held = unit_of(sweep), sweep.limit, sweep.held
    best = max((point.load.value for point in held), default=None)
    if limit is not None and (held or limit.half_width < 1):
        binds = f"the SLO {slo}" if slo is not None and limit.by_slo > 0.5 else "capacity"
        if sweep.plan.axis == "concurrency" and slo is None:
            binds = "its throughput stops growing there"
        text = (
            f"Saturates at {figure(limit.value, unit)} ({_short(limit.low)} to {_short(limit.high)}, {LEVEL:.0%}):"
            f" {binds}."
        )
        if best is None:
            return f"{text} {_unproven(sweep)}"
        return f"{text} The highest load that was shown to hold is {figure(best, unit)}."
    if best is not None:
        return f"No saturation up to {figure(best, unit)}: {sweep.ended or 'it goes on'}."
    if sweep.of_axis and sweep.inconclusive:
        return _unproven(sweep)
    if sweep.of_axis and limit is not None:
        low = min(point.load.value for point in sweep.of_axis)
        return f"No load holds, down to {figure(low, unit)}: {sweep.ended or 'it goes on'}."
    return f"Nothing is known of its saturation: {sweep.ended or 'it goes on'}."


def bound_of(sweep: Sweep) -> tuple[str, str]:
    """What bound it and how that is known, from the lowest load that was too much; empty if there was none."""
    over = [
        point
        for point in sweep.points
        if point.bound is not None
        and point.bound.what != "nothing"
        and (point.stability.verdict in (Verdict.OVERLOADED, Verdict.BACKLOGGED) or not sweep.meets(point))
    ]
    if not over and sweep.limit is not None:  # a closed loop is never overloaded
        over = [
            point
            for point in sweep.of_axis
            if point.bound is not None and point.bound.what != "nothing" and point.load.value > sweep.limit.value
        ]
    if not over and sweep.points and sweep.points[-1].disturbed and sweep.points[-1].bound is not None:
        over = [sweep.points[-1]]
    if not over:
        return "", ""
    first = min(over, key=lambda point: (point.load.closed != (sweep.plan.axis == "concurrency"), point.load.value))
    return (first.bound.what, first.bound.evidence) if first.bound else ("", "")


def row(point: Point) -> dict[str, Any]:
    """A point as JSON values."""
    found = point.stability
    share = point.share
    return {
        "axis": "concurrency" if point.load.closed else "rate",
        "load": point.load.value,
        "verdict": found.verdict.value,
        "reason": found.reason,
        "offered": found.offered,
        "served": found.served,
        "served_error": found.served_error,
        "in_system": found.in_system,
        "growth": found.growth,
        "wander": found.wander,
        "height": found.height,
        "excess": found.excess,
        "share": None if share is None else {"within_slo": share[0], "error": share[1]},
        "bound": None if point.bound is None else asdict(point.bound),
        "invalid": list(point.invalid),
        "cut": point.cut,
    }


def record_of(
    sweep: Sweep,
    *,
    subject: Subject,
    workload: Workload,
    slo: Slo | None = None,
    command: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    files: Sequence[Attachment] = (),
) -> Record:
    """The sweep as one record: `saturation`, `highest_held`, and every point in the workload's parameters.

    Raises RecordError if no point was measured.
    """
    unit = "requests/s" if sweep.plan.axis == "rate" else "requests"
    metrics = [_single("points", "1", float(len(sweep.points)), 1)]
    if sweep.limit is not None:
        limit = sweep.limit
        interval = Interval(limit.low, limit.high, LEVEL, "posterior")
        metrics.append(_single("saturation", unit, limit.value, len(sweep.points), interval))
    if sweep.held:
        metrics.append(_single("highest_held", unit, max(point.load.value for point in sweep.held), 1))
    flaws = [Flaw("cut", "The sweep was ended before its time.")] if sweep.cut else []
    if sweep.points and all(point.disturbed for point in sweep.points):
        flaws += [Flaw("invalid", reason) for reason in sweep.points[-1].invalid]
    what, evidence = bound_of(sweep)
    asked = {
        **workload.describe(),
        "plan": asdict(sweep.plan),
        "slo": None if slo is None else {"bounds": str(slo), "share": slo.share},
        "points": [row(point) for point in sweep.points],
        "ended": sweep.ended,
        "bound_by": {"what": what, "evidence": evidence} if what else None,
        **(parameters or {}),
    }
    return Record(
        subject=subject, workload=RecordedWorkload(f"sweep-{workload.name}", workload.seed, asked),
        machine=fingerprint(), git=git_state(), metrics=tuple(metrics), files=tuple(files), notes=(said(sweep, slo),),
        flaws=tuple(flaws), command=command_of(command), packages=package_versions(),
    )  # fmt: skip


def keep(
    sweep: Sweep,
    folder: Path,
    *,
    subject: Subject,
    workload: Workload,
    slo: Slo | None = None,
    command: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
) -> tuple[Path, Record]:
    """Write the sweep's record and, attached to it, one of each point with what was seen. The sweep's path, and it.

    Raises:
        RecordError: the folder can't be written.
    """
    moment = datetime.datetime.now(datetime.UTC)
    name = f"sweep-{re.sub(r'[^A-Za-z0-9_-]+', '-', workload.name)}-{moment:%Y%m%d-%H%M%S}"
    files = []
    for number, point in enumerate(sweep.points, start=1):
        if point.measured is not None:
            note = f"Point {number} of {name}: {point.stability.verdict}. {point.stability.reason}"
            path, _ = save(
                point.measured, folder, subject=subject, name=f"{name}-{number:02}", notes=[note],
                parameters={"sweep": row(point)},
            )  # fmt: skip
            files.append(Attachment.of(path, folder))
    record = record_of(
        sweep, subject=subject, workload=workload, slo=slo, command=command, parameters=parameters, files=files
    )
    path = folder / f"{name}.json"
    record.save(path)
    return path, record


def page_of(sweep: Sweep, record: Record, *, title: str, slo: Slo | None = None) -> SweepPage:
    """What `lab.pages` draws. Steady latencies are given for stable points alone."""
    limit, unit = sweep.limit, unit_of(sweep)
    what, evidence = bound_of(sweep)
    closed = sweep.plan.axis == "concurrency"
    guesses = [point for point in sweep.points if point.load.closed != closed]
    remarks = [evidence] if evidence else []
    if guesses:
        loads = ", ".join(f"{point.load.value:g}" for point in guesses)
        remarks.append(f"Closed loops of {loads} requests at once gave the first guess.")
    plan = sweep.plan
    return SweepPage(
        title=title, axis=plan.axis, points=[_page_point(sweep, point, slo) for point in sweep.points
                                             if point.load.closed == closed and point.measured is not None],
        saturation=None if limit is None else Estimate(limit.value, unit, limit.low, limit.high),
        said=said(sweep, slo), bound_by=what, evidence=remarks, slo="" if slo is None else str(slo), cut=sweep.cut,
        settings=[("steps", str(plan.steps)), ("time", f"{plan.budget:g} s"), ("requests a point", str(plan.requests)),
                  ("tolerance", f"{plan.tolerance:.1%}"), ("ended", sweep.ended)],
        records=[record],
    )  # fmt: skip


def _page_point(sweep: Sweep, point: Point, slo: Slo | None) -> SweepPoint:
    if point.measured is None:
        raise ValueError("A point without a run has no figures.")
    run = point.measured.runs[0]
    found = latencies(run)
    sums = totals(run, found, slo)
    stability = point.stability
    quoted = {}
    if stability.verdict is Verdict.STABLE and not point.invalid:
        metrics = {metric.name: metric for metric in metrics_of([run], slo)}
        for name, rank in _QUOTED:
            if name in metrics:
                within = metrics[name].intervals.get(rank)
                low, high = (within.low, within.high) if within else (None, None)
                quoted[f"{name} {rank}"] = Estimate(getattr(metrics[name], rank), "s", low, high)
    error = 1.96 * stability.served_error
    served = Estimate(stability.served, "requests/s", max(0.0, stability.served - error), stability.served + error)
    return SweepPoint(
        load=point.load.value,
        judgement="INVALID" if point.disturbed else stability.verdict.value,
        throughput=Estimate(sums.output_throughput, "tokens/s"),
        requests=served,
        goodput=None if sums.goodput is None else Estimate(sums.goodput, "requests/s"),
        meets=None if slo is None or point.share is None else sweep.meets(point),
        share_met=None if point.share is None else point.share[0],
        latencies=quoted,
        bound_by="" if point.bound is None or point.bound.what == "nothing" else point.bound.what,
        note=" ".join([stability.reason, *point.invalid]).strip(),
    )


def _single(name: str, unit: str, value: float, n: int, ci: Interval | None = None) -> Metric:
    return Metric(
        name=name, unit=unit, n=n, mean=value, p50=value, p90=value, p95=value, p99=value, min=value, max=value, ci=ci
    )


def _short(value: float) -> str:
    return figure(value, "")
