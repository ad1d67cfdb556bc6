"""Whether a figure is in a Record: rounding is honest, or it isn't."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

from penstock.lab.journal.units import ANY, NONE, dimension_of, shown_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from penstock.core.record import Record
    from penstock.lab.journal.evidence import Exhibit
    from penstock.lab.journal.figures import Figure
    from penstock.lab.journal.layout import Journal

STATISTICS = ("mean", "p50", "p90", "p95", "p99", "min", "max")
_BOUND_REACH = 2.0  # "over 500" must be said of something between 500 and 1000
_value = attrgetter("value")


@dataclass(frozen=True, slots=True)
class Fact:
    """A value that a Record holds, in its dimension's own unit."""

    dimension: str
    value: float
    what: str  # "p99 of ttft"
    where: str


class Truth:
    """The facts of some Records, to look figures up in."""

    def __init__(self, exhibits: Iterable[Exhibit], journal: Journal) -> None:
        facts = [fact for exhibit in exhibits for fact in _facts(exhibit.record, exhibit.label(journal))]
        facts.sort(key=_value)
        self._plain: dict[str, list[Fact]] = {ANY: [fact for fact in facts if not fact.dimension.startswith("±")]}
        for fact in facts:
            self._plain.setdefault(fact.dimension, []).append(fact)

    def find(self, figure: Figure) -> Fact | None:
        """A fact that rounds to the figure as it is written, if there is one.

        A figure of k digits is a value that rounds to these k digits; after "about" its trailing zeros don't count.
        "over" and "under" want a fact on that side and within a factor of 2; "±" a half interval.
        """
        facts = self._of(figure)
        value, half = figure.value, figure.step / 2 * (1 + 1e-9)
        if figure.manner == "over":
            return _first(facts, value, value * _BOUND_REACH)
        if figure.manner == "under":
            return _first(facts, value / _BOUND_REACH, value)
        found = _first(facts, value - half, value + half)
        if found is None and value < 0 and figure.dimension == NONE:  # "-12 %" of a ratio of 0.88
            return _first(facts, -value - half, -value + half)
        return found

    def nearest(self, figure: Figure) -> Fact | None:
        facts = self._of(figure)
        at = bisect_left(facts, figure.value, key=_value)
        return min(facts[max(at - 1, 0) : at + 1], key=lambda fact: abs(fact.value - figure.value), default=None)

    def _of(self, figure: Figure) -> list[Fact]:
        mark = "±" if figure.manner == "spread" else ""
        return self._plain.get(mark + figure.dimension, []) if not mark or figure.dimension != ANY else self._spreads()

    def _spreads(self) -> list[Fact]:
        spreads = [fact for name, facts in self._plain.items() if name.startswith("±") for fact in facts]
        return sorted(spreads, key=_value)


def describe(fact: Fact, figure: Figure) -> str:
    return f"{shown_in(fact.value, figure.unit)}, the {fact.what} in {fact.where}"


def _first(facts: list[Fact], low: float, high: float) -> Fact | None:
    at = bisect_left(facts, low, key=_value)
    return facts[at] if at < bisect_right(facts, high, key=_value) else None


def _facts(record: Record, where: str) -> Iterator[Fact]:
    for metric in record.metrics:
        dimension, factor = dimension_of(metric.unit)
        for name in STATISTICS:
            yield Fact(dimension, getattr(metric, name) * factor, f"{name} of {metric.name}", where)
        if metric.ci is not None:
            low, high = metric.ci.low * factor, metric.ci.high * factor
            yield Fact(dimension, low, f"interval of {metric.name}", where)
            yield Fact(dimension, high, f"interval of {metric.name}", where)
            yield Fact(f"±{dimension}", (high - low) / 2, f"half interval of {metric.name}", where)
        if dimension == NONE and ("ratio" in metric.name or "speed" in metric.name):
            for name in ("mean", "p50"):
                change = abs(getattr(metric, name) * factor - 1)
                yield Fact(dimension, change, f"change that is the {name} of {metric.name}", where)
    machine = record.machine
    yield Fact("bytes", float(machine.memory_bytes), "machine's memory", where)
    yield Fact("bytes", float(machine.last_level_cache_bytes), "machine's last-level cache", where)
    if machine.read_bandwidth is not None:
        yield Fact("bytes/s", machine.read_bandwidth, "machine's read bandwidth", where)
    for gpu in machine.gpus:
        yield Fact("bytes", float(gpu.memory_bytes), f"memory of {gpu.name}", where)
