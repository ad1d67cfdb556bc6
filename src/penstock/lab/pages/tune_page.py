"""The page of a study: what was tried, what each setting did, and the winner beside the defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.lab.pages.compare_page import VERDICT_TONES
from penstock.lab.pages.document import Callout, Card, Cards, Cell, Code, Document, Folded, Grid, Pairs, Section, Table
from penstock.lab.pages.machine_section import machine_section
from penstock.lab.pages.plots import Axis, Mark, Plot, Series
from penstock.lab.pages.units import figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.core.record import Record
    from penstock.lab.pages.document import Block
    from penstock.lab.pages.estimates import Estimate
    from penstock.lab.pages.plots import Tone

_TONES: dict[str | None, Tone] = {
    "better": "good", "defaults are as good": "good", "inconclusive": "warn", None: "bad",
}  # fmt: skip
_STATES: dict[str, Tone] = {
    "defaults": "plain", "measured": "good", "dropped": "soft", "invalid": "bad", "one run": "soft",
    "not measured": "soft",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedPoint:
    """One trial."""

    number: int
    settings: str
    score: float | None  # gain over the defaults, a share
    scores: Sequence[float]  # of each run
    figures: Sequence[float]  # of each run
    places: Sequence[int]  # of each run in the study
    state: str
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunePage:
    title: str
    said: str  # the result in a sentence
    verdict: str | None
    figure: str  # what was to be made better
    unit: str
    trials: Sequence[TriedPoint]  # the defaults first
    noise: float  # standard deviation of a run, a share
    importance: Mapping[str, float]
    winner: Sequence[tuple[str, str, str]]  # setting, the winner's value, the default
    gain: Estimate | None
    pairs: Sequence[float]  # winner over defaults, a round each
    beside: Sequence[tuple[str, Estimate, str]] = ()  # every figure: winner over defaults, and a word
    sides: Mapping[str, Sequence[float]]  # figures of the verdict's runs
    margin: float
    invalid: Sequence[str] = ()
    cut: bool = False
    ended: str = ""
    seconds: float = 0.0
    settings: Sequence[tuple[str, str]] = ()  # of the load
    space: Sequence[tuple[str, str]] = ()
    toml: str = ""
    records: Sequence[Record] = ()


def tune_page(page: TunePage) -> Document:
    """The same page for the same study."""
    lead: list[Block] = [Callout(page.said, "warn" if page.cut else _TONES[page.verdict])]
    if page.invalid:
        lead.append(Callout("What couldn't be measured", "bad", tuple(page.invalid)))
    lead.append(_cards(page))
    sections = []
    if page.pairs:
        sections.append(_verdict_section(page))
    sections.append(Section("What was tried", (Grid(tuple(_search_plots(page))), _trial_table(page))))
    blocks: list[Block] = [Pairs(tuple(page.settings))]
    if page.space:
        blocks.append(Folded("Values that could be tried", (Pairs(tuple(page.space)),)))
    sections.append(Section("Load and space", tuple(blocks)))
    if page.records:
        sections.append(machine_section(page.records[0]))
    return Document(
        title=page.title, kind="Tuning", subtitle=f"{len(page.trials) - 1} trials · {figure(page.seconds, 's')}",
        lead=tuple(lead), sections=tuple(sections),
    )  # fmt: skip


def _cards(page: TunePage) -> Cards:
    cards = []
    if page.gain is not None:
        cards.append(page.gain.card("gain over the defaults", page.verdict or "", _TONES[page.verdict]))
    cards.append(Card("trials", str(len(page.trials) - 1), note=f"ended as {page.ended}" if page.ended else ""))
    cards.append(Card("noise of a run", figure(page.noise, "share")))
    return Cards(tuple(cards))


def _verdict_section(page: TunePage) -> Section:
    rows = tuple((name, value, default) for name, value, default in page.winner)
    blocks: list[Block] = [Table(("setting", "winner", "default"), rows, caption="What the winner changes")]
    names = list(page.sides)
    points = [(at, value, run) for at, name in enumerate(names) for run, value in enumerate(page.sides[name])]
    low, high = 1 / (1 + page.margin), 1 + page.margin
    plots = (
        Plot(
            title=f"{page.figure}, the verdict's runs", height=260, x=Axis(label="", categories=tuple(names)),
            y=Axis(label="", unit=page.unit, from_zero=True),
            series=(
                Series(name="each run", kind="points", x=[at for at, _, _ in points], y=[v for _, v, _ in points],
                       labels=[f"{names[at]}, run {run + 1}" for at, _, run in points]),
            ),
        ),
        Plot(
            title="Ratio of each round, winner over defaults", height=260, x=Axis(label="round"),
            y=Axis(label="ratio", log=True),
            marks=(
                Mark(at=1.0, label="equal", across="y"),
                Mark(at=low, until=high, label="no difference that matters", across="y"),
            ),
            series=(
                Series(name="ratio", kind="points", x=list(range(1, len(page.pairs) + 1)), y=list(page.pairs)),
            ),
        ),
    )  # fmt: skip
    blocks.append(Grid(plots))
    if page.beside:
        beside = tuple(
            (name, ratio.cell(), Cell(word, tone=VERDICT_TONES[word], badge=True)) for name, ratio, word in page.beside
        )
        blocks.append(Table(("figure", "ratio", ""), beside, caption="In every figure, winner over defaults"))
    if page.toml:
        blocks.append(Code(page.toml))
    return Section("Winner and defaults", tuple(blocks))


def _search_plots(page: TunePage) -> list[Plot]:
    tried = [point for point in page.trials[1:] if point.score is not None]
    best, climbed = 0.0, []
    for point in tried:
        if point.state == "measured":
            best = max(best, point.score or 0.0)
        climbed.append(best)
    runs = [(point.number, score, run) for point in tried for run, score in enumerate(point.scores)]
    names = {point.number: point.settings for point in tried}
    plots = [
        Plot(
            title="Gain over the defaults, trial by trial", height=300, x=Axis(label="trial"),
            y=Axis(label="", unit="share"), marks=(Mark(at=0.0, label="defaults", across="y"),),
            series=(
                Series(name="best so far", kind="step", x=[p.number for p in tried], y=climbed),
                Series(name="trial", kind="points", x=[p.number for p in tried], y=[p.score or 0.0 for p in tried],
                       labels=[f"{p.settings} ({p.state})" for p in tried]),
                Series(name="each run", kind="points", tone="plain", x=[number for number, _, _ in runs],
                       y=[score for _, score, _ in runs],
                       labels=[f"{names[number]}, run {run + 1}" for number, _, run in runs], shown=False),
            ),
        ),
        Plot(
            title="The defaults, measured in between", height=300, x=Axis(label="place in the study"),
            y=Axis(label="", unit=page.unit),
            series=(
                Series(name="defaults", kind="line", marked=True, x=list(page.trials[0].places),
                       y=list(page.trials[0].figures)),
            ),
            caption="What moves here is the machine, and is taken out of the gains",
        ),
    ]  # fmt: skip
    if page.importance:
        names_ = list(page.importance)
        plots.append(
            Plot(
                title="What each setting matters", height=300, x=Axis(label="", categories=tuple(names_)),
                y=Axis(label="", unit="share", from_zero=True),
                series=(
                    Series(name="importance", kind="bars", x=list(range(len(names_))),
                           y=[page.importance[name] for name in names_]),
                ),
                caption="Share of the trials' variance that goes with the setting taken by itself; a hint",
            )
        )  # fmt: skip
    return plots


def _trial_table(page: TunePage) -> Table:
    rows = []
    for point in page.trials:
        score = "" if point.score is None else f"{100 * point.score:+.1f} %"
        mean = "" if not point.figures else figure(sum(point.figures) / len(point.figures), page.unit)
        rows.append((
            Cell(str(point.number), sort=point.number), Cell(point.settings, title=point.why),
            Cell(score, sort=-9.0 if point.score is None else point.score), Cell(mean), Cell(str(len(point.figures)),
            sort=len(point.figures)), Cell(point.state, tone=_STATES.get(point.state, "plain"), badge=True,
            title=point.why, below=point.why[:160]),
        ))  # fmt: skip
    return Table(("trial", "settings", "gain", page.figure, "runs", ""), tuple(rows))
