"""A comparison as records, as a page, as Markdown and as JSON."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from penstock.core.record import Attachment, Metric, Subject
from penstock.lab.bench import records
from penstock.lab.bench.compare.judging import FIGURES, cost
from penstock.lab.bench.compare.tokens import count
from penstock.lab.bench.folder import write
from penstock.lab.bench.run import Measured
from penstock.lab.pages import render_html, render_markdown
from penstock.lab.pages.compare_page import ComparedEngine, ComparedRatio, ComparePage, compare_page
from penstock.lab.pages.estimates import Estimate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from penstock.core.record import Record
    from penstock.lab.bench.compare.comparison import Comparison, Side
    from penstock.lab.bench.compare.outcome import Outcome
    from penstock.lab.bench.compare.settings import Asked
    from penstock.lab.bench.compare.tokens import Counted
    from penstock.lab.bench.counts import Encoding


class Kept:
    """One comparison, with all that is said of it."""

    def __init__(
        self,
        asked: Asked,
        comparison: Comparison,
        outcome: Outcome,
        reasons: Sequence[str],
        tokenizer: Encoding | None,
        command: Sequence[str],
    ) -> None:
        self._asked = asked
        self.comparison = comparison
        self.outcome = outcome
        self.reasons = tuple(reasons)
        self._command = tuple(command)
        self.counts: dict[str, Counted] = {
            name: count([run for each in side.measured for run in each.runs], tokenizer)
            for name, side in comparison.sides.items()
        }

    @property
    def unfair(self) -> tuple[str, ...]:
        """What couldn't be made equal, and what the counts show, a sentence each with whom it is about."""
        return tuple(
            f"{name}: {sentence}"
            for name, side in self.comparison.sides.items()
            for sentence in (*(side.up.differs if side.up else ()), *self.counts[name].warnings)
        )

    @property
    def said(self) -> str:
        """The result in a sentence or two."""
        parts = []
        for name in list(self.comparison.sides)[1:]:
            found = {c.figure: c for c in self.comparison.compared if c.name == name}
            if (each := found.get("output_throughput")) is not None:
                parts.append(f"{name} has {each.ratio.estimate:.2f} times the output tokens/s of {each.baseline}"
                             f" ({each.verdict})")  # fmt: skip
        return f"{'; '.join(parts) or 'Nothing could be compared'}."

    def estimates(self, name: str) -> dict[str, Estimate]:
        """Means over a contender's runs, with intervals."""
        found = {}
        for figure, (unit, _) in FIGURES.items():
            if values := self.values(name, figure):
                found[figure] = Estimate.of(Metric.from_samples(figure, unit, values))
        return found

    def values(self, name: str, figure: str) -> list[float]:
        """One a run that can be believed."""
        slots = [slot for slot in self.comparison.slots if slot.name == name and not slot.reasons]
        return [slot.figures[figure] for slot in slots if figure in slot.figures]

    def cost(self, name: str) -> Estimate | None:
        """Of a million output tokens; None without a price."""
        price, values = self._asked.compare.price_per_hour, self.values(name, "output_throughput")
        if price is None or not values:
            return None
        return Estimate.of(Metric.from_samples("cost", "1", [cost(value, price) for value in values]))

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "outcome": self.outcome,
            "reasons": list(self.reasons),
            "said": self.said,
            "baseline": self.comparison.baseline,
            "margin": self.comparison.margin,
            "order": [slot.name for slot in self.comparison.slots],
            "cut": self.comparison.cut,
            "unfair": list(self.unfair),
            "engines": {name: self._engine_dict(name, side) for name, side in self.comparison.sides.items()},
            "ratios": [
                {
                    "engine": each.name, "baseline": each.baseline, "figure": each.figure, "verdict": each.verdict,
                    "ratio": each.ratio.estimate, "p_value": each.ratio.p_value, "drift": each.ratio.drift,
                    "interval": _bounds(each.ratio.interval), "bootstrap": _bounds(each.ratio.bootstrap),
                    "pairs": list(each.pairs),
                }
                for each in self.comparison.compared
            ],
        }  # fmt: skip

    def _engine_dict(self, name: str, side: Side) -> dict[str, Any]:
        price = self.cost(name)
        return {
            "version": side.up.version if side.up else "unknown",
            "configuration": dict(side.up.configuration) if side.up else {},
            "failed": side.failed or None,
            "ready_s": side.ready_s,
            "figures": {figure: self.values(name, figure) for figure in FIGURES if self.values(name, figure)},
            "cost_per_million_output_tokens": price.value if price else None,
            "tokens": dict(self.counts[name].rows),
        }

    def save(self, folder: Path) -> list[Path]:
        """`comparison.json`, a record for each contender that has it attached, `comparison.html` and `comparison.md`.

        Raises RecordError if the folder can't be written.
        """
        made = []
        result = folder / "comparison.json"
        write(result, json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n")
        written = [result]
        for name, side in self.comparison.sides.items():
            if side.measured:
                path, record = self._save_record(folder, name, side, Attachment.of(result, folder))
                written.append(path)
                made.append(record)
        document = compare_page(self._page(made))
        for file, content in (
            ("comparison.html", render_html.render(document)),
            ("comparison.md", render_markdown.render(document)),
        ):
            write(folder / file, content)
            written.append(folder / file)
        return written

    def _save_record(self, folder: Path, name: str, side: Side, result: Attachment) -> tuple[Path, Record]:
        load, up = self.comparison.load, side.up
        assert up is not None
        first = side.measured[0]
        runs = [run for each in side.measured for run in each.runs]
        together = Measured(
            endpoint=first.endpoint, workload=load.workload, arrivals=load.arrivals, manner=load.manner,
            count=load.count, slo=load.slo, runs=runs,
        )  # fmt: skip
        metrics = [
            Metric.from_samples(f"{each.figure.replace(' ', '_')}_ratio_to_{each.baseline}", "1", each.pairs)
            for each in self.comparison.compared
            if each.name == name
        ]
        if side.ready_s:
            metrics.append(Metric.from_samples("ready", "s", side.ready_s))
        return records.save(
            together, folder, subject=Subject(name, up.version, dict(up.configuration)),
            name="compare-" + re.sub(r"[^A-Za-z0-9_.-]+", "-", name), command=self._command,
            parameters={"order": [slot.name for slot in self.comparison.slots], "margin": self.comparison.margin},
            metrics=metrics, files=[result], notes=(*up.differs, *up.notes, *self.counts[name].warnings),
        )  # fmt: skip

    def _page(self, made: Sequence[Record]) -> ComparePage:
        asked = self._asked
        price = asked.compare.price_per_hour
        return ComparePage(
            title=" and ".join(self.comparison.sides), said=" ".join((self.said, *self.reasons)),
            outcome=self.outcome.value, engines=[self._engine(name) for name in self.comparison.sides],
            ratios=[
                ComparedRatio(
                    engine=each.name, baseline=each.baseline, figure=each.figure, verdict=each.verdict.value,
                    ratio=Estimate(each.ratio.estimate, "1", *(_bounds(each.ratio.interval) or (None, None))),
                    pairs=each.pairs,
                )
                for each in self.comparison.compared
            ],
            units={figure: unit for figure, (unit, _) in FIGURES.items()},
            order=[slot.name for slot in self.comparison.slots], margin=self.comparison.margin, unfair=self.unfair,
            price="" if price is None else f"{price:g} {asked.compare.currency} an hour".replace("  ", " "),
            currency=asked.compare.currency,
            settings=[(name, str(value)) for name, value in asked.bench.describe().items() if value not in (None, "")],
            records=made,
        )  # fmt: skip

    def _engine(self, name: str) -> ComparedEngine:
        side = self.comparison.sides[name]
        figures = self.estimates(name)
        return ComparedEngine(
            name=name, version=side.up.version if side.up else "", figures=figures,
            runs={figure: self.values(name, figure) for figure in figures},
            settings=_flat(side.up.configuration) if side.up else {}, cost=self.cost(name),
            tokens=self.counts[name].rows, notes=(*side.up.differs, *side.up.notes) if side.up else (),
            invalid=tuple(reason for slot in self.comparison.slots if slot.name == name for reason in slot.reasons),
            not_run=side.failed if not side.measured else "",
        )  # fmt: skip


def _bounds(interval: Any) -> tuple[float, float] | None:
    return None if interval is None else (interval.low, interval.high)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings under names with dots."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = "on" if value in ("", True) else str(value)
    return found
