"""The page of a sweep: throughput against latency, the goodput curve, and where it saturates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from penstock.lab.pages.document import Callout, Card, Cards, Cell, Document, Grid, Pairs, Paragraph, Section, Table
from penstock.lab.pages.estimates import Estimate
from penstock.lab.pages.machine_section import machine_section
from penstock.lab.pages.plots import Axis, Mark, Plot, Series
from penstock.lab.pages.units import figure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from penstock.core.record import Record
    from penstock.lab.pages.document import Block
    from penstock.lab.pages.plots import Tone

Judgement = Literal["STABLE", "BACKLOGGED", "OVERLOADED", "INCONCLUSIVE", "INVALID"]
_TONES: dict[str, Tone] = {
    "STABLE": "good", "BACKLOGGED": "warn", "OVERLOADED": "bad", "INCONCLUSIVE": "soft", "INVALID": "bad"
}  # fmt: skip
_JUDGED = tuple(_TONES)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPoint:
    """One load that was tried. Latencies in seconds; past capacity there are none that are steady: leave them out."""

    load: float  # requests/s offered, or requests at once
    judgement: Judgement
    throughput: Estimate  # output tokens/s
    requests: Estimate  # whole answers/s
    goodput: Estimate | None = None  # answers/s within the SLO
    meets: bool | None = None  # the SLO; None: there is none
    share_met: float | None = None  # of requests, within the SLO
    latencies: Mapping[str, Estimate] = field(default_factory=dict)  # "ttft p50", "ttft p99", "tpot p50", ...
    bound_by: str = ""
    note: str = ""  # why it was judged so


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPage:
    """Points in the order they were tried."""

    title: str
    axis: Literal["rate", "concurrency"]
    points: Sequence[SweepPoint]
    saturation: Estimate | None  # in the axis's unit; None: not found
    said: str  # the result in a sentence
    bound_by: str = ""  # "KV memory", with the evidence
    evidence: Sequence[str] = ()
    slo: str = ""
    cut: bool = False
    settings: Sequence[tuple[str, str]] = ()
    records: Sequence[Record] = ()  # the machine is taken from the first


def sweep_page(sweep: SweepPage) -> Document:
    """The same page for the same sweep."""
    tone: Tone = "good" if sweep.saturation else "warn"
    lead: list[Block] = [Callout(sweep.said, tone)]
    if sweep.cut:
        lead.append(Callout("The sweep was cut short: these are the points it had.", "bad"))
    lead.append(Cards(tuple(_cards(sweep))))
    sections = [Section("Throughput and latency", (Grid(tuple(_plots(sweep))), _point_table(sweep)))]
    if sweep.bound_by or sweep.evidence:
        sections.append(
            Section("What bound it", tuple(Paragraph(text) for text in (sweep.bound_by, *sweep.evidence) if text))
        )
    if sweep.settings:
        sections.append(Section("Settings", (Pairs(tuple(sweep.settings)),)))
    if sweep.records:
        sections.append(machine_section(sweep.records[0]))
    return Document(
        title=sweep.title, kind="Sweep", subtitle=_subtitle(sweep), lead=tuple(lead), sections=tuple(sections)
    )


def _unit(sweep: SweepPage) -> str:
    return "requests/s" if sweep.axis == "rate" else "at once"


def _subtitle(sweep: SweepPage) -> str:
    words = [f"{len(sweep.points)} points", "offered rate" if sweep.axis == "rate" else "concurrency"]
    return ", ".join([*words, f"SLO {sweep.slo}"] if sweep.slo else words)


def _cards(sweep: SweepPage) -> list[Card]:
    cards = []
    if sweep.saturation is not None:
        cards.append(sweep.saturation.card("Saturation", "the highest load that holds", "good"))
    held = [point for point in sweep.points if point.judgement == "STABLE" and point.meets is not False]
    if held:
        best = max(held, key=lambda point: point.load)
        cards.append(best.throughput.card("Output tokens there", f"at {figure(best.load, _unit(sweep))}"))
        cards += [
            best.latencies[name].card(f"{_words(name)} there", f"at {figure(best.load, _unit(sweep))}")
            for name in ("ttft p99", "tpot p99")
            if name in best.latencies
        ]
    good = [point.goodput for point in sweep.points if point.goodput is not None]
    if good:
        cards.append(max(good, key=lambda each: each.value).card("Highest goodput", "answers within the SLO"))
    return cards


def _words(name: str) -> str:
    first, _, rest = name.partition(" ")
    return f"{first.upper()} {rest}".strip()


def _plots(sweep: SweepPage) -> list[Plot]:
    points = sorted(sweep.points, key=lambda point: point.load)
    load_axis = Axis(
        label="offered" if sweep.axis == "rate" else "requests at once", unit=_unit(sweep), log=_spans(points)
    )
    marks: list[Mark] = []
    if sweep.saturation is not None:
        marks.append(Mark(at=sweep.saturation.value, label="saturation", tone="good"))
        if sweep.saturation.low is not None and sweep.saturation.high is not None:
            marks.append(Mark(at=sweep.saturation.low, until=sweep.saturation.high, label="interval", tone="good"))
    plots = []
    names = list(dict.fromkeys(name for point in points for name in point.latencies))
    for family in dict.fromkeys(name.partition(" ")[0] for name in names):
        mine = [name for name in names if name.partition(" ")[0] == family]
        plots.append(
            Plot(
                title=f"{family.upper()} against throughput",
                caption="Up and to the left is worse: more delay for less work. Only points with a steady state.",
                x=Axis(label="output", unit="tokens/s", from_zero=True),
                y=Axis(label=family.upper(), unit="s", log=True),
                series=tuple(
                    _series(
                        _words(name),
                        [point for point in points if name in point.latencies],
                        lambda point: point.throughput.value,
                        lambda point, name=name: point.latencies[name],  # type: ignore[misc]
                        sweep,
                    )
                    for name in mine
                ),
            )
        )
    curves = [_series("output tokens/s", points, lambda point: point.load, lambda point: point.throughput, sweep)]
    plots.append(
        Plot(
            title="Output against load", x=load_axis, y=Axis(label="output", unit="tokens/s", from_zero=True),
            series=(*curves, *_verdict_series(points, lambda point: point.throughput.value)), marks=tuple(marks),
        )
    )  # fmt: skip
    rates = [_series("answers/s", points, lambda point: point.load, lambda point: point.requests, sweep)]
    good = [point for point in points if point.goodput is not None]
    if good:
        rates.append(
            _series(
                "goodput", good, lambda point: point.load, lambda point: point.goodput or Estimate(float("nan")), sweep
            )
        )
    if sweep.axis == "rate":
        loads = [point.load for point in points]
        rates.append(Series(name="as offered", x=loads, y=loads, dashed=True))
    plots.append(
        Plot(
            title="Goodput" if good else "Answers against load", x=load_axis,
            y=Axis(label="answers", unit="requests/s", from_zero=True), series=tuple(rates), marks=tuple(marks),
        )
    )  # fmt: skip
    return plots


def _spans(points: Sequence[SweepPoint]) -> bool:
    """Whether the loads differ so much that a logarithmic axis shows them better."""
    loads = [point.load for point in points if point.load > 0]
    return bool(loads) and max(loads) > 20 * min(loads)


def _series(
    name: str,
    points: Sequence[SweepPoint],
    x: Callable[[SweepPoint], float],
    y: Callable[[SweepPoint], Estimate],
    sweep: SweepPage,
) -> Series:
    found = [y(point) for point in points]
    has_interval = any(each.low is not None and each.high is not None for each in found)
    return Series(
        name=name,
        x=[x(point) for point in points],
        y=[each.value for each in found],
        low=[each.value if each.low is None else each.low for each in found] if has_interval else (),
        high=[each.value if each.high is None else each.high for each in found] if has_interval else (),
        labels=[f"{figure(point.load, _unit(sweep))}: {point.judgement}" for point in points],
        marked=True,
    )


def _verdict_series(points: Sequence[SweepPoint], y: Callable[[SweepPoint], float]) -> list[Series]:
    """A set of points for each verdict, over the curve."""
    series = []
    for judgement in _JUDGED:
        mine = [point for point in points if point.judgement == judgement]
        if mine:
            series.append(
                Series(
                    name=judgement, kind="points", tone=_TONES[judgement], x=[point.load for point in mine],
                    y=[y(point) for point in mine], labels=[point.note for point in mine],
                )
            )  # fmt: skip
    return series


def _point_table(sweep: SweepPage) -> Table:
    names = list(dict.fromkeys(name for point in sweep.points for name in point.latencies))
    with_slo = any(point.meets is not None for point in sweep.points)
    columns = ["load", "verdict", "output", "answers"]
    columns += ["goodput", "within SLO"] if with_slo else []
    columns += [*map(_words, names), "bound by", "why"]
    rows = []
    for point in sweep.points:
        row: list[Cell | str] = [
            Cell(figure(point.load, _unit(sweep)), sort=point.load),
            Cell(point.judgement, tone=_TONES[point.judgement], badge=True),
            point.throughput.cell(),
            point.requests.cell(),
        ]
        if with_slo:
            row.append(point.goodput.cell() if point.goodput else "")
            row.append(_met(point))
        row += [point.latencies[name].cell() if name in point.latencies else "" for name in names]
        rows.append((*row, point.bound_by, point.note))
    return Table(tuple(columns), tuple(rows), caption="Every point, in the order they were tried")


def _met(point: SweepPoint) -> Cell | str:
    if point.meets is None:
        return ""
    share = "" if point.share_met is None else f" ({figure(point.share_met, 'share')})"
    return Cell(("yes" if point.meets else "no") + share, sort=point.share_met, tone="good" if point.meets else "bad")
