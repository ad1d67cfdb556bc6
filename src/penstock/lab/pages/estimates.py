"""A figure with its interval, as pages state it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.lab.pages.document import Card, Cell
from penstock.lab.pages.units import between, figure

if TYPE_CHECKING:
    from typing import Self

    from penstock.core.record import Metric
    from penstock.lab.pages.plots import Tone


@dataclass(frozen=True, slots=True)
class Estimate:
    """`low` and `high` are None where nothing is known of the spread."""

    value: float
    unit: str = "1"
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, metric: Metric) -> Self:
        """A metric's mean and its interval."""
        return cls.at(metric, "mean")

    @classmethod
    def at(cls, metric: Metric, field: str) -> Self:
        """A metric's mean or one of its percentiles ("p99"), with its interval if the record has one."""
        interval = metric.ci if field == "mean" else metric.intervals.get(field)
        low, high = (interval.low, interval.high) if interval else (None, None)
        return cls(getattr(metric, field), metric.unit, low, high)

    @property
    def shown(self) -> str:
        return figure(self.value, self.unit)

    @property
    def interval(self) -> str:
        return "" if self.low is None or self.high is None else between(self.low, self.high, self.unit)

    def cell(self, tone: Tone = "plain") -> Cell:
        exactly = f"{self.value!r} {self.unit}".removesuffix(" 1")
        return Cell(self.shown, sort=self.value, tone=tone, title=exactly, below=self.interval)

    def card(self, name: str, note: str = "", tone: Tone = "plain") -> Card:
        return Card(name, self.shown, self.interval, note, tone)
