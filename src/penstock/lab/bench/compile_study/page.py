"""The page of a study."""

from __future__ import annotations

from statistics import geometric_mean
from typing import TYPE_CHECKING

from penstock.lab.bench.compile_study.break_even import geometric_mean_of
from penstock.lab.bench.compile_study.report import paid, sentences, speedup
from penstock.lab.bench.compile_study.trial import Point
from penstock.lab.bench.compile_study.words import broken, recompiled, where
from penstock.lab.pages.document import Callout, Card, Cards, Cell, Document, Grid, Paragraph, Section, Table
from penstock.lab.pages.estimates import Estimate
from penstock.lab.pages.machine_section import machine_section
from penstock.lab.pages.plots import Axis, Plot, Series
from penstock.lab.pages.units import between, figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.core.record import Record
    from penstock.lab.bench.compile_study.break_even import BreakEven
    from penstock.lab.bench.compile_study.study import Study, Tried
    from penstock.lab.bench.compile_study.trial import Answer
    from penstock.lab.pages.document import Block
    from penstock.lab.pages.plots import Tone

_TONES: dict[str, Tone] = {"pays": "good", "open": "warn", "never": "bad"}
_CURVE_POINTS = 33


def page_of(study: Study, record: Record) -> Document:
    """Draw the study; its record tells the machine."""
    plan = study.plan
    lead: list[Block] = [
        Callout(f"{plan.model} on {plan.backend}, computed as it is and compiled:", points=tuple(sentences(study)))
    ]
    if study.cut:
        lead.append(Callout("The study was cut short: this is what it had.", "bad"))
    cards = _cards(study)
    if cards:
        lead.append(Cards(tuple(cards)))
    done = [tried for tried in study.modes if tried.answers]
    sections = [
        Section("Speed", (_speed_table(study, done), Grid(tuple(_speed_plots(study, done))))),
        Section("What compiling takes, and when it pays", (_cost_table(study), *_curves(study))),
        Section("What was compiled", (_count_table(done), _compilation_table(done))),
        Section("Where graphs broke", (_break_table(done),)),
        machine_section(record),
    ]
    return Document(
        title=f"Compiling {plan.model}",
        kind="Compile study",
        subtitle=f"{plan.backend}, {plan.dtype}, {plan.shapes} shapes, {plan.passes} passes of {plan.rounds} rounds",
        lead=tuple(lead),
        sections=tuple(sections),
    )


def _cards(study: Study) -> list[Card]:
    batch = study.plan.batches[-1]
    cards = []
    for tried in study.compared:
        ratio = speedup(study, tried, Point("decode", batch, study.plan.context, study.plan.steps))
        pays = study.pays(tried, batch)
        if ratio is None or pays is None:
            continue
        interval = ratio.interval
        cards.append(
            Card(
                tried.mode.name,
                f"{figure(ratio.estimate, '1')} x",
                "" if interval is None else between(interval.low, interval.high, "1"),
                f"as fast as eager, batch of {batch}; {paid(pays)}",
                _TONES[pays.verdict],
            )
        )
    return cards


def _estimate(point: Point, tried: Tried) -> Estimate:
    """Tokens a second."""
    samples = tried.samples(point)
    tokens = point.context if point.kind == "prefill" else point.batch
    mean = geometric_mean_of([tokens / sample for sample in samples])
    known = len(samples) > 1
    return Estimate(mean.value, "tokens/s", mean.low if known else None, mean.high if known else None)


def _speed_table(study: Study, done: Sequence[Tried]) -> Table:
    rows = []
    for point in study.plan.points:
        for tried in done:
            ratio = speedup(study, tried, point)
            step = tried.samples(point)
            rows.append(
                (
                    point.words,
                    tried.mode.name,
                    Cell(figure(geometric_mean(step), "s"), sort=geometric_mean(step)),
                    _estimate(point, tried).cell(),
                    ""
                    if ratio is None or tried is study.eager
                    else Estimate(
                        ratio.estimate,
                        "1",
                        ratio.interval.low if ratio.interval else None,
                        ratio.interval.high if ratio.interval else None,
                    ).cell("good" if ratio.interval and ratio.interval.low > 1 else "plain"),
                )
            )
    return Table(
        ("work", "mode", "a step", "speed", "beside eager"), tuple(rows), caption="Geometric means over rounds"
    )


def _speed_plots(study: Study, done: Sequence[Tried]) -> list[Plot]:
    plots = []
    for kind, label, values in (
        ("decode", "batch", study.plan.batches),
        ("prefill", "prompt tokens", study.plan.prefills),
    ):
        points = [point for point in study.plan.points if point.kind == kind]
        series = []
        for tried in done:
            found = [_estimate(point, tried) for point in points]
            series.append(
                Series(
                    name=tried.mode.name, x=[float(value) for value in values], y=[each.value for each in found],
                    low=[each.value if each.low is None else each.low for each in found],
                    high=[each.value if each.high is None else each.high for each in found], marked=True,
                )
            )  # fmt: skip
        plots.append(
            Plot(
                title=kind.capitalize(), x=Axis(label=label), y=Axis(label="speed", unit="tokens/s", from_zero=True),
                series=tuple(series),
            )
        )  # fmt: skip
    return plots


def _cost_table(study: Study) -> Table:
    rows: list[tuple[Cell | str, ...]] = []
    for tried in study.compared:
        for batch in study.plan.batches:
            cold, warm = study.pays(tried, batch), study.pays(tried, batch, warm=True)
            if cold is None:
                rows.append(
                    (tried.mode.name, str(batch), "", "", "", Cell(tried.failure or "not measured", tone="soft"), "")
                )
                break
            rows.append(
                (
                    tried.mode.name,
                    Cell(str(batch), sort=batch),
                    Cell(figure(cold.cost.value, "s"), sort=cold.cost.value),
                    "" if warm is None else Cell(figure(warm.cost.value, "s"), sort=warm.cost.value),
                    Cell(figure(cold.saving.value, "s"), sort=cold.saving.value,
                         below=between(cold.saving.low, cold.saving.high, "s")),
                    Cell(paid(cold), tone=_TONES[cold.verdict]),
                    "" if warm is None else Cell(paid(warm), tone=_TONES[warm.verdict]),
                )
            )  # fmt: skip
    return Table(
        ("mode", "batch", "compile, cold", "compile, cached", "saved a request", "pays, cold", "pays, cached"),
        tuple(rows),
        caption=f"A request: a prompt of {study.plan.prefills[0]} tokens, an answer of {study.plan.answer}",
    )


def _curves(study: Study) -> list[Grid]:
    """Time saved since the start against requests, compile included: where it crosses zero it is paid for."""
    batch = study.plan.batches[-1]
    pays: list[tuple[str, BreakEven]] = []
    for tried in study.compared:
        found = study.pays(tried, batch)
        if found is not None:
            pays.append((tried.mode.name, found))
    ends = [each.high if each.high is not None else each.requests or 0.0 for _, each in pays]
    most = 1.5 * max(ends, default=0.0)
    if most <= 0:
        return []
    x = [most * i / (_CURVE_POINTS - 1) for i in range(_CURVE_POINTS)]
    series = tuple(
        Series(
            name=name, x=x, y=[n * each.saving.value - each.cost.value for n in x],
            low=[n * each.saving.low - each.cost.high for n in x],
            high=[n * each.saving.high - each.cost.low for n in x],
        )
        for name, each in pays
        if each.saving.high < float("inf")
    )  # fmt: skip
    plot = Plot(
        title=f"Time saved, batch of {batch}", caption="Cold compile included; above zero it is paid for.",
        x=Axis(label="requests", unit="1", from_zero=True), y=Axis(label="saved", unit="s"), series=series,
    )  # fmt: skip
    return [Grid((plot,))]


def _count_table(done: Sequence[Tried]) -> Table:
    rows = []
    for tried in done:
        answer = tried.answers[0]
        late = sum(each.late_compilations for each in answer.points)
        rows.append(
            (
                tried.mode.name,
                _number(sum(not each.failure for each in answer.compilations)),
                _number(len(recompiled(answer))),
                _number(late),
                _number(len(broken(answer))),
                _number(len(answer.breaks)),
                _memory(answer),
            )
        )
    return Table(
        ("mode", "compilations", "of them again", "of them in rounds", "given up", "graph breaks", "peak memory"),
        tuple(rows),
        caption="The first process of each mode",
    )


def _number(value: int) -> Cell:
    return Cell(str(value), sort=value)


def _memory(answer: Answer) -> Cell:
    peak = answer.memory.peak if answer.memory.gpu_peak is None else answer.memory.gpu_peak
    after = answer.memory.after if answer.memory.gpu_after is None else answer.memory.gpu_after
    return Cell(figure(peak, "bytes"), sort=peak, below=f"{figure(after, 'bytes')} in the end")


def _compilation_table(done: Sequence[Tried]) -> Table:
    rows = [
        (
            tried.mode.name,
            each.point,
            Cell(each.function, title=f"{where(each.file)}:{each.line}"),
            _number(each.operations),
            Cell(figure(each.seconds, "s"), sort=each.seconds),
            each.failure or each.reason or "first time",
        )
        for tried in done
        for each in tried.answers[0].compilations
    ]
    return Table(("mode", "during", "function", "operations", "time", "why"), tuple(rows), caption="Every compilation")


def _break_table(done: Sequence[Tried]) -> Table | Paragraph:
    rows = [
        (
            tried.mode.name,
            f"{where(each.file)}:{each.line}",
            each.function,
            each.code,
            each.reason + (" The whole function runs uncompiled." if each.skipped else ""),
        )
        for tried in done
        for each in tried.answers[0].breaks
    ]
    if not rows:
        return Paragraph("Nowhere: each computation is one graph.")
    return Table(("mode", "where", "function", "code", "why"), tuple(rows))
