"""What came of a study: sentences, and a record."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.core.estimate import CONFIDENCE
from penstock.core.machine import fingerprint
from penstock.core.provenance import command_of, package_versions
from penstock.core.record import Flaw, Interval, Metric, Record, Subject, Workload, git_state
from penstock.lab.bench.compile_study.trial import Point
from penstock.lab.bench.compile_study.words import broken, recompiled, where
from penstock.lab.pages.units import figure
from penstock.lab.statistics import unpaired_ratio

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from penstock.lab.bench.compile_study.break_even import BreakEven
    from penstock.lab.bench.compile_study.study import Study, Tried
    from penstock.lab.statistics import Ratio


def speedup(study: Study, tried: Tried, point: Point) -> Ratio | None:
    """Eager's time of a step over this mode's; None where one of both wasn't measured."""
    before, after = study.eager.samples(point), tried.samples(point)
    return unpaired_ratio(before, after) if before and after else None


def paid(found: BreakEven) -> str:
    """When it pays, in words."""
    if found.verdict == "never":
        return "never pays, as a request is no faster"
    if found.verdict == "open":
        return f"isn't shown to pay, and not before {figure(found.low or 0.0, 'requests')}"
    return f"pays after {figure(found.requests or 0.0, 'requests')} ({_short(found.low)} to {_short(found.high)})"


def sentences(study: Study) -> list[str]:
    """One for each mode that was held against eager, and one for each that couldn't be."""
    said = []
    for tried in study.compared:
        name = tried.mode.name
        if tried.failure:
            said.append(f"{name}: not measured, {tried.failure}.")
            continue
        batch = study.plan.batches[-1]
        ratio = speedup(study, tried, Point("decode", batch, study.plan.context, study.plan.steps))
        cold = study.pays(tried, batch)
        text = f"{name}:"
        if ratio is not None:
            interval = ratio.interval
            spread = f" ({_short(interval.low)} to {_short(interval.high)})" if interval else ""
            text += f" decode in a batch of {batch} is {figure(ratio.estimate, '1')} times as fast as eager{spread};"
        if cold is not None:
            text += f" compiling takes {figure(cold.cost.value, 's')}, and {paid(cold)}."
        said.append(text.rstrip(";") if cold is None else text)
    return said


def rows(study: Study) -> list[dict[str, Any]]:
    """Each mode as JSON values: what became of it, what was compiled and why, and where graphs broke."""
    return [
        {
            "mode": tried.mode.name,
            "measured": not tried.failure,
            "why_not": tried.failure,
            "failures": [run.failure for run in tried.runs if run.failure],
            "process_seconds": [run.seconds for run in tried.runs],
            "described": tried.answers[0].described if tried.answers else {},
            "tokens_as_eager": study.agreement(tried),
            "compilations": [
                msgspec.to_builtins(each) | {"file": where(each.file)} for each in _first(tried, "compilations")
            ],
            "graph_breaks": [
                msgspec.to_builtins(each) | {"file": where(each.file)} for each in _first(tried, "breaks")
            ],
            "break_even": {
                f"b{batch}": {
                    "verdict": found.verdict,
                    "requests": found.requests,
                    "low": found.low,
                    "high": found.high,
                }
                for batch in study.plan.batches
                if tried.mode.name != "eager" and (found := study.pays(tried, batch)) is not None
            },
        }
        for tried in study.modes
    ]


def _first(tried: Tried, name: str) -> Sequence[Any]:
    return getattr(tried.answers[0], name) if tried.answers else ()


def record_of(study: Study, command: Sequence[str] = ()) -> Record:
    """The study as a record: a metric for each mode and point, what compiling took, and when it is paid for.

    Raises RecordError if nothing was measured.
    """
    plan = study.plan
    metrics = [metric for tried in study.modes if tried.answers for metric in _metrics(study, tried)]
    notes = [
        *sentences(study),
        f"A request is a prompt of {plan.prefills[0]} tokens, computed alone, and {plan.answer} tokens of answer, "
        "each costing its share of a decode step. Intervals are over rounds within processes.",
    ]
    first = study.eager.answers or [answer for tried in study.modes for answer in tried.answers]
    described = first[0].described if first else {}
    asked = {
        "prefill_tokens": list(plan.prefills), "batches": list(plan.batches), "context": plan.context,
        "steps": plan.steps, "answer_tokens": plan.answer, "rounds": plan.rounds, "passes": plan.passes,
        "modes": rows(study),
    }  # fmt: skip
    configuration = {
        "model": plan.model, "shapes": plan.shapes, "block_size": plan.block_size, "dtype": plan.dtype,
        "backend": plan.backend, "threads": plan.threads, **{f"runner_{k}": v for k, v in described.items()},
    }  # fmt: skip
    return Record(
        subject=Subject("penstock torch runner", package_versions().get("penstock", "unknown"), configuration),
        workload=Workload("compile-study", plan.seed, asked),
        machine=fingerprint(), git=git_state(), metrics=tuple(metrics), notes=tuple(notes),
        flaws=(Flaw("cut", "The study was ended before its time."),) if study.cut else (),
        command=command_of(command), packages=package_versions("torch", "triton"),
    )  # fmt: skip


def keep(record: Record, folder: Path) -> Path:
    """Write the record into a folder. Raises RecordError if it can't be."""
    path = folder / f"compile-study-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}.json"
    record.save(path)
    return path


def _metrics(study: Study, tried: Tried) -> list[Metric]:
    name = tried.mode.name.replace("-", "_")
    answers = tried.answers
    found = [Metric.from_samples(f"{point.name}_{name}", "s", tried.samples(point)) for point in study.plan.points]
    found += [
        Metric.from_samples(f"memory_peak_{name}", "bytes", [each.memory.peak for each in answers]),
        Metric.from_samples(f"memory_after_{name}", "bytes", [each.memory.after for each in answers]),
    ]
    gpu = [each.memory.gpu_peak for each in answers if each.memory.gpu_peak is not None]
    if gpu:
        found.append(Metric.from_samples(f"gpu_memory_peak_{name}", "bytes", gpu))
    if tried.mode.name == "eager":
        return found
    if tried.mode.compile is not None:
        counts = {
            "compilations": [sum(not each.failure for each in answer.compilations) for answer in answers],
            "recompilations": [len(recompiled(answer)) for answer in answers],
            "graph_breaks": [len(answer.breaks) for answer in answers],
            "given_up": [len(broken(answer)) for answer in answers],
        }
        found += [Metric.from_samples(f"{what}_{name}", "1", values) for what, values in counts.items()]
    for batch in study.plan.batches:
        for words, warm in (("cold", False), ("warm", True)):
            pays = study.pays(tried, batch, warm=warm)
            if pays is None:
                continue
            if batch == study.plan.batches[0]:
                found.append(_single(f"compile_{words}_{name}", "s", pays.cost.value))
            if pays.verdict == "pays" and pays.requests is not None and pays.low is not None and pays.high is not None:
                within = Interval(pays.low, pays.high, CONFIDENCE, "t")
                found.append(_single(f"break_even_{words}_b{batch}_{name}", "requests", pays.requests, within))
    return found


def _single(name: str, unit: str, value: float, ci: Interval | None = None) -> Metric:
    return msgspec.structs.replace(Metric.from_samples(name, unit, [value]), ci=ci)


def _short(value: float | None) -> str:
    return figure(value or 0.0, "")
