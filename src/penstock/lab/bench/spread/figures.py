"""What a part of a run comes to, small enough to send: histograms of its latencies, sums and counts. Parts add up.

A run is divided into consecutive sections, by time, which are the same for all parts: requests of different clients
wait in the same queue, so an interval has to compare stretches of time and not clients (see `summary`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.core.estimate import CONFIDENCE
from penstock.core.record import Interval, Metric
from penstock.lab.bench.counts import Counts, count
from penstock.lab.bench.gaps import blocks
from penstock.lab.bench.histogram import Histogram
from penstock.lab.bench.metrics import Totals, counted, latencies, output_tokens, totals
from penstock.lab.bench.summary import PERCENTILES, interval_of_mean, ranks_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from numpy.typing import NDArray

    from penstock.lab.bench.counts import Encoding
    from penstock.lab.bench.observations import Observations
    from penstock.lab.bench.slo import Slo

SECTIONS = 20  # of a run, and of a measurement
_NS = 1e9
_PER_TOKEN = 1000  # counts a token has in `itl`'s histogram: a gap's tokens need not be a whole number


@dataclass(slots=True, eq=False, kw_only=True)
class Quantity:
    """Values of one kind, by section."""

    unit: str
    scale: float  # whole numbers of the histograms to one of the unit
    weight: int  # counts in the histograms to one of the quantity
    sections: list[Histogram]
    sums: NDArray[np.float64]  # [sections] of the values, each as often as it is counted
    n: int = 0
    min: float = math.inf
    max: float = -math.inf

    @classmethod
    def empty(cls, unit: str, weight: int = 1) -> Self:
        """To record into."""
        return cls(
            unit=unit, scale=_NS if unit == "s" else 1.0, weight=weight,
            sections=[Histogram() for _ in range(SECTIONS)], sums=np.zeros(SECTIONS),
        )  # fmt: skip

    def record(self, section: NDArray[np.int64], values: NDArray[Any], each: NDArray[np.int64] | None = None) -> None:
        """Values [n] in sections [n], each so many times [n]; NaN is left out."""
        values = values.astype(np.float64)
        there = np.isfinite(values)
        if not there.any():
            return
        values, section = values[there], section[there]
        each = None if each is None else each[there]
        for number in np.unique(section).tolist():
            mine = section == number
            weights = None if each is None else each[mine]
            self.sections[number].record(values[mine] * self.scale, weights)
            self.sums[number] += values[mine].sum() if weights is None else np.dot(values[mine], weights)
        self.n += len(values)
        self.min, self.max = min(self.min, float(values.min())), max(self.max, float(values.max()))

    def add(self, other: Quantity) -> None:
        """The same quantity of another part."""
        for mine, theirs in zip(self.sections, other.sections, strict=True):
            mine.add(theirs)
        self.sums = self.sums + other.sums
        self.n += other.n
        self.min, self.max = min(self.min, other.min), max(self.max, other.max)

    def describe(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "unit": self.unit, "weight": self.weight, "n": self.n, "min": self.min, "max": self.max,
            "sums": self.sums.tolist(), "histograms": [each.encode() for each in self.sections],
        }  # fmt: skip

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Self:
        """What `describe` gave. Raises InvalidRequestError if a histogram can't be read."""
        found = cls.empty(told["unit"], told["weight"])
        found.sections = [Histogram.decode(text) for text in told["histograms"]]
        found.sums = np.array(told["sums"], np.float64)
        found.n, found.min, found.max = told["n"], told["min"], told["max"]
        return found


@dataclass(slots=True, eq=False, kw_only=True)
class Tally:
    """Of a part of a run, or of all parts together."""

    quantities: dict[str, Quantity]
    totals: Totals
    counts: Counts
    slo: str | None  # that `totals.met` is of

    def add(self, other: Tally) -> None:
        """Another part of the same run."""
        for name, quantity in other.quantities.items():
            if name in self.quantities:
                self.quantities[name].add(quantity)
            else:
                self.quantities[name] = quantity
        self.totals, self.counts = _sum_of_totals(self.totals, other.totals), _sum_of_counts(self.counts, other.counts)

    def describe(self) -> dict[str, Any]:
        """As JSON values, for a run's `meta`."""
        return {
            "quantities": {name: quantity.describe() for name, quantity in self.quantities.items()},
            "totals": asdict(self.totals), "counts": asdict(self.counts), "slo": self.slo,
        }  # fmt: skip

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Self:
        """What `describe` gave. Raises InvalidRequestError if a histogram can't be read."""
        return cls(
            quantities={name: Quantity.read(each) for name, each in told["quantities"].items()},
            totals=Totals(**told["totals"]), counts=Counts(**told["counts"]), slo=told["slo"],
        )  # fmt: skip


def tally(seen: Observations, span: tuple[float, float, bool], until: float, slo: Slo | None) -> Tally:
    """What one part saw.

    Args:
        span: the whole run's window, as `metrics.window` gives it.
        until: the end of the whole run, in s; its sections are between the span's begin and this.
    """
    mask, found, tokens = counted(seen), latencies(seen), output_tokens(seen)
    width = max(until - span[0], 1e-9) / SECTIONS
    places = np.clip((np.nan_to_num(seen.end) - span[0]) / width, 0, SECTIONS - 1).astype(np.int64)
    section = np.maximum.accumulate(places) if len(places) else places
    columns: dict[str, tuple[str, NDArray[Any]]] = {
        "ttft": ("s", found.ttft), "tpot": ("s", found.tpot), "e2e": ("s", found.e2e),
        "prompt_tokens": ("tokens", found.prompt_tokens), "output_tokens": ("tokens", found.tokens),
        "schedule_delay": ("s", (seen.sent - seen.due)[mask]),
    }  # fmt: skip
    quantities = {name: Quantity.empty(unit) for name, (unit, _) in columns.items()}
    for name, (_, values) in columns.items():
        quantities[name].record(section[mask], values)
    gap, itl = Quantity.empty("s"), Quantity.empty("s", _PER_TOKEN)
    for block in blocks(seen, mask, tokens, section):
        where = np.full(len(block.gaps), block.section)
        gap.record(where, block.gaps)
        itl.record(where, block.gaps / block.tokens, np.rint(block.tokens * _PER_TOKEN).astype(np.int64))
    quantities |= {"chunk_gap": gap, "itl": itl}
    return Tally(
        quantities={name: quantity for name, quantity in quantities.items() if quantity.n},
        totals=totals(seen, found, slo, span), counts=count([seen]), slo=None if slo is None else str(slo),
    )  # fmt: skip


def tally_of(seen: Observations) -> Tally | None:
    """Of a run that several offered; None if it was one."""
    told = seen.meta.get("spread")
    return None if told is None else Tally.read(told["tally"])


def totals_of(seen: Observations, part: Tally, slo: Slo | None) -> Totals:
    """Of a run that several offered. By another SLO than its own it is judged again, if its columns are there."""
    if len(seen) and (None if slo is None else str(slo)) != part.slo:
        return totals(seen, latencies(seen), slo)
    return part.totals if slo is not None and str(slo) == part.slo else replace(part.totals, met=None)


def counts_of(runs: Sequence[Observations], tokenizer: Encoding | None = None) -> Counts:
    """As `counts.count`; of runs whose columns stayed with the workers, what those counted."""
    parts = [tally_of(seen) for seen in runs]
    if not any(part is not None and not len(seen) for part, seen in zip(parts, runs, strict=True)):
        return count(runs, tokenizer)
    there = [part.counts for part in parts if part is not None]
    return reduce(_sum_of_counts, there)


def latency_metrics(runs: Sequence[Tally]) -> list[Metric]:
    """Of one measurement's repeats: the metrics that `records.metrics_of` has of single values."""
    names = list(dict.fromkeys(name for run in runs for name in run.quantities))
    return [_metric(name, [run.quantities.get(name) for run in runs]) for name in names]


def _metric(name: str, runs: Sequence[Quantity | None]) -> Metric:
    there = [(number, quantity) for number, quantity in enumerate(runs) if quantity is not None]
    parts = math.ceil(SECTIONS / len(there))  # of each run: batch means want few and long ones
    first = there[0][1]
    merged, sections, sums = Histogram(), [], []
    for _, quantity in there:
        grouped = [Histogram() for _ in range(parts)]
        for number, histogram in enumerate(quantity.sections):
            grouped[number * parts // SECTIONS].add(histogram)
        sections += grouped
        sums.append(np.bincount(np.arange(SECTIONS) * parts // SECTIONS, quantity.sums))
        for histogram in grouped:
            merged.add(histogram)
    total = merged.total
    run = np.repeat(np.arange(len(there)), parts)
    weights = np.array([each.total for each in sections], np.float64) / first.weight
    low, high = min(quantity.min for _, quantity in there), max(quantity.max for _, quantity in there)

    def at(mass: float) -> float:
        rank = min(max(1, math.ceil(mass * first.weight - 1e-9)), total)
        return min(max(merged.middle_at(rank) / first.scale, low), high)

    found: dict[str, Any] = {}
    intervals: dict[str, Interval] = {}
    for percent in PERCENTILES:
        position = max(0.0, (total / first.weight - 1) * percent / 100)
        a, b = at(int(position) + 1), at(int(position) + 2)
        found[f"p{percent}"] = min(a + (b - a) * (position - int(position)), b)
        bucket = merged.bucket_at(min(max(1, math.ceil((int(position) + 1) * first.weight)), total))
        below = np.array([each.below(bucket) for each in sections], np.float64) / first.weight
        ranks = ranks_of(max(1, round(total / first.weight)), percent / 100, below, weights, run)
        if ranks is not None:
            intervals[f"p{percent}"] = Interval(at(ranks[0]), at(ranks[1]), CONFIDENCE, "ranks")
    all_sums = np.concatenate(sums) / first.weight
    mean = min(max(float(all_sums.sum() / weights.sum()), low), high)
    return Metric(
        name=name, unit=first.unit, n=sum(quantity.n for _, quantity in there), mean=mean, **found, min=low, max=high,
        ci=interval_of_mean(mean, all_sums, weights, run), intervals=intervals,
    )  # fmt: skip


def _sum_of_totals(a: Totals, b: Totals) -> Totals:
    kinds = dict.fromkeys((*a.errors, *b.errors))
    return replace(
        a,
        requests=a.requests + b.requests,
        errors={kind: a.errors.get(kind, 0) + b.errors.get(kind, 0) for kind in kinds},
        whole=a.whole + b.whole,
        output_tokens=a.output_tokens + b.output_tokens,
        prompt_tokens=a.prompt_tokens + b.prompt_tokens,
        met=None if a.met is None or b.met is None else a.met + b.met,
    )


def _sum_of_counts(a: Counts, b: Counts) -> Counts:
    """`prompt_extra`, a median, is of the part with more answers."""
    sums = {f.name: getattr(a, f.name) + getattr(b, f.name) for f in fields(Counts) if f.name != "prompt_extra"}
    return Counts(**sums, prompt_extra=(a if a.answers >= b.answers else b).prompt_extra)
