"""The page of a comparison: engines side by side, ratios with intervals and verdicts, and what might be unfair."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from penstock.lab.pages.document import Callout, Cell, Document, Grid, Pairs, Section, Table
from penstock.lab.pages.machine_section import machine_section
from penstock.lab.pages.plots import Axis, Mark, Plot, Series
from penstock.lab.pages.units import figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.core.record import Record
    from penstock.lab.pages.document import Block
    from penstock.lab.pages.estimates import Estimate
    from penstock.lab.pages.plots import Tone

VerdictWord = Literal["faster", "slower", "equivalent", "inconclusive"]
VERDICT_TONES: dict[str, Tone] = {"faster": "good", "slower": "bad", "equivalent": "plain", "inconclusive": "soft"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedEngine:
    name: str  # unlike any other's
    version: str = ""
    figures: Mapping[str, Estimate]  # "output_throughput", "ttft p50", ...: over its repeats
    runs: Mapping[str, Sequence[float]]  # the same figures, a value a repeat
    settings: Mapping[str, str]  # as it ran; those that differ between engines are pointed out
    cost: Estimate | None = None  # of a million output tokens
    tokens: Sequence[tuple[str, str]] = ()  # what the tokenizer says of its counts
    notes: Sequence[str] = ()  # how it was built, what could not be made equal
    invalid: Sequence[str] = ()  # why its figures can't be believed
    not_run: str = ""  # why there are none


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRatio:
    """`engine` over `baseline` in one figure."""

    engine: str
    baseline: str
    figure: str
    ratio: Estimate
    verdict: VerdictWord
    pairs: Sequence[float]  # one ratio a pair of runs


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparePage:
    title: str
    said: str  # the result in a sentence
    outcome: Literal["pass", "fail", "inconclusive", "invalid"]
    engines: Sequence[ComparedEngine]
    ratios: Sequence[ComparedRatio]
    units: Mapping[str, str]  # by figure
    order: Sequence[str] = ()  # of engines, as they ran: A B B A
    margin: float | None = None  # of equivalence
    unfair: Sequence[str] = ()  # what could not be made equal
    price: str = ""  # "1.20 EUR an hour"
    currency: str = ""
    settings: Sequence[tuple[str, str]] = ()  # of the workload and the load
    records: Sequence[Record] = ()


def compare_page(compared: ComparePage) -> Document:
    """The same page for the same comparison."""
    tones: dict[str, Tone] = {"pass": "good", "fail": "bad", "inconclusive": "warn", "invalid": "bad"}
    lead: list[Block] = [Callout(compared.said, tones[compared.outcome])]
    lead += [
        Callout(f"{engine.name}: figures not to be believed", "bad", tuple(engine.invalid))
        for engine in compared.engines
        if engine.invalid
    ]
    if compared.unfair:
        lead.append(Callout("Not equal between the engines", "warn", tuple(compared.unfair)))
    sections = [Section("Side by side", (_figure_table(compared), Grid(tuple(_figure_plots(compared)))))]
    if compared.ratios:
        sections.append(Section("Ratios", (_ratio_table(compared), Grid(tuple(_ratio_plots(compared))))))
    if any(engine.cost for engine in compared.engines):
        sections.append(_cost_section(compared))
    if any(engine.tokens for engine in compared.engines):
        sections.append(_token_section(compared))
    sections.append(_settings_section(compared))
    if compared.records:
        sections.append(machine_section(compared.records[0]))
    return Document(
        title=compared.title,
        kind="Comparison",
        subtitle=_subtitle(compared),
        lead=tuple(lead),
        sections=tuple(sections),
    )


def _subtitle(compared: ComparePage) -> str:
    words = [", ".join(engine.name for engine in compared.engines)]
    if compared.order:
        words.append(f"{len(compared.order)} runs")
    if compared.margin is not None:
        words.append(f"equivalent within {figure(compared.margin, 'share')}")
    return " · ".join(words)


def _ran(compared: ComparePage) -> list[ComparedEngine]:
    return [engine for engine in compared.engines if not engine.not_run]


def _names(compared: ComparePage) -> list[str]:
    return list(dict.fromkeys(name for engine in compared.engines for name in engine.figures))


def words(name: str) -> str:
    """ "ttft p50" as people write it."""
    first, _, rest = name.partition(" ")
    first = first.upper() if first in ("ttft", "tpot", "itl", "e2e") else first.replace("_", " ")
    return f"{first} {rest}".strip()


def _figure_table(compared: ComparePage) -> Table:
    names = _names(compared)
    rows: list[tuple[Cell | str, ...]] = []
    if not names:
        for engine in compared.engines:
            outcome = f"not run: {engine.not_run}" if engine.not_run else "no figures"
            rows.append((f"{engine.name} {engine.version}".strip(), outcome))
        return Table(("engine", "outcome"), tuple(rows), caption="Nothing was measured that can be believed")
    for engine in compared.engines:
        title = f"{engine.name} {engine.version}".strip()
        if engine.not_run:
            blank = ("",) * (len(names) - 1)
            rows.append((Cell(title, tone="soft"), Cell(f"not run: {engine.not_run}", tone="soft"), *blank))
            continue
        tone: Tone = "bad" if engine.invalid else "plain"
        figures = [engine.figures[name].cell(tone) if name in engine.figures else "" for name in names]
        rows.append((Cell(title, title="; ".join(engine.notes)), *figures))
    return Table(("engine", *map(words, names)), tuple(rows), caption="Means over the runs, with their 95 % intervals")


def _figure_plots(compared: ComparePage) -> list[Plot]:
    engines = _ran(compared)
    plots = []
    for name in _names(compared):
        mine = [(at, engine) for at, engine in enumerate(engines) if name in engine.figures]
        estimates = [engine.figures[name] for _, engine in mine]
        intervals = all(each.low is not None and each.high is not None for each in estimates)
        runs = [
            (at, value, run)
            for at, engine in mine
            for run, value in enumerate(engine.runs.get(name, ()))
            if math.isfinite(value)
        ]
        plots.append(
            Plot(
                title=words(name), height=260,
                x=Axis(label="", categories=tuple(engine.name for engine in engines)),
                y=Axis(label="", unit=compared.units.get(name, "1"), from_zero=True),
                series=(
                    Series(
                        name="mean", kind="bars", x=[at for at, _ in mine], y=[each.value for each in estimates],
                        low=[each.low or 0.0 for each in estimates] if intervals else (),
                        high=[each.high or 0.0 for each in estimates] if intervals else (),
                        labels=[engine.version for _, engine in mine],
                    ),
                    Series(
                        name="each run", kind="points", tone="plain", x=_spread(runs),
                        y=[value for _, value, _ in runs],
                        labels=[f"{engines[at].name}, run {run + 1}" for at, _, run in runs],
                    ),
                ),
            )
        )  # fmt: skip
    return plots


def _spread(runs: Sequence[tuple[int, float, int]]) -> list[float]:
    """Places side by side around a category, in the order of the runs."""
    most = max((run for _, _, run in runs), default=0)
    return [at + (0.3 * (run / most - 0.5) if most else 0.0) for at, _, run in runs]


def _ratio_table(compared: ComparePage) -> Table:
    rows = tuple(
        (
            f"{ratio.engine} / {ratio.baseline}",
            words(ratio.figure),
            ratio.ratio.cell(),
            Cell(ratio.verdict, tone=VERDICT_TONES[ratio.verdict], badge=True),
            Cell(str(len(ratio.pairs)), sort=len(ratio.pairs)),
        )
        for ratio in compared.ratios
    )
    margin = "" if compared.margin is None else f"; equivalent: surely within {figure(compared.margin, 'share')}"
    return Table(
        ("engines", "figure", "ratio", "verdict", "pairs"), rows,
        caption=f"Ratios of paired runs, with their 95 % intervals{margin}",
    )  # fmt: skip


def _ratio_plots(compared: ComparePage) -> list[Plot]:
    plots = []
    for name in dict.fromkeys(ratio.figure for ratio in compared.ratios):
        mine = [ratio for ratio in compared.ratios if ratio.figure == name]
        intervals = all(ratio.ratio.low is not None and ratio.ratio.high is not None for ratio in mine)
        pairs = [(at, value, pair) for at, ratio in enumerate(mine) for pair, value in enumerate(ratio.pairs)]
        marks = [Mark(at=1.0, label="equal", across="y")]
        if compared.margin:
            low, high = 1 / (1 + compared.margin), 1 + compared.margin
            marks.append(Mark(at=low, until=high, label="equivalent", across="y"))
        plots.append(
            Plot(
                title=f"Ratio of {words(name)}", height=260, marks=tuple(marks),
                x=Axis(label="", categories=tuple(f"{ratio.engine} / {ratio.baseline}" for ratio in mine)),
                y=Axis(label="ratio", log=True),
                series=(
                    Series(
                        name="ratio", kind="points", x=list(range(len(mine))), y=[r.ratio.value for r in mine],
                        low=[r.ratio.low or 0.0 for r in mine] if intervals else (),
                        high=[r.ratio.high or 0.0 for r in mine] if intervals else (),
                        labels=[ratio.verdict for ratio in mine],
                    ),
                    Series(
                        name="each pair", kind="points", tone="plain", x=_spread(pairs),
                        y=[value for _, value, _ in pairs],
                        labels=[f"pair {pair + 1}" for _, _, pair in pairs],
                    ),
                ),
            )
        )  # fmt: skip
    return plots


def _cost_section(compared: ComparePage) -> Section:
    rows = [
        (engine.name, engine.cost.cell(), engine.figures["output_throughput"].cell() if _has_output(engine) else "")
        for engine in compared.engines
        if engine.cost is not None
    ]
    currency = f"{compared.currency} " if compared.currency else ""
    caption = f"At {compared.price} for the machine" if compared.price else ""
    return Section("Cost", (Table(("engine", f"{currency}per million output tokens", "output"), tuple(rows), caption),))


def _has_output(engine: ComparedEngine) -> bool:
    return "output_throughput" in engine.figures


def _token_section(compared: ComparePage) -> Section:
    names = list(dict.fromkeys(name for engine in compared.engines for name, _ in engine.tokens))
    rows = [(engine.name, *(dict(engine.tokens).get(name, "") for name in names)) for engine in _ran(compared)]
    return Section("Tokens, counted again", (Table(("engine", *names), tuple(rows)),))


def _settings_section(compared: ComparePage) -> Section:
    """One row a setting; a row whose values differ is pointed out."""
    engines = compared.engines
    names = sorted({name for engine in engines for name in engine.settings})
    rows = []
    for name in names:
        values = [engine.settings.get(name, "") for engine in engines]
        tone: Tone = "warn" if len({value for value in values if value}) > 1 else "plain"
        rows.append((Cell(name, tone=tone), *(Cell(value, tone=tone) for value in values)))
    blocks: list[Block] = []
    if compared.settings:
        blocks.append(Pairs(tuple(compared.settings)))
    if rows:
        columns = ("setting", *(engine.name for engine in engines))
        blocks.append(Table(columns, tuple(rows), caption="Settings of the engines; those that differ stand out"))
    notes = [f"{engine.name}: {note}" for engine in engines for note in engine.notes]
    if notes:
        blocks.append(Callout("Notes", "plain", tuple(notes)))
    if compared.order:
        blocks.append(Pairs((("order of the runs", " ".join(compared.order)),)))
    return Section("Settings", tuple(blocks))
