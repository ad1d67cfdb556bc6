"""What a measurement tells of itself, as far as it tells: the form in which foreign results and our own records meet.

Names and units are those of docs/metrics-of-load.md: seconds, tokens/s, requests/s, tokens, requests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from penstock.core.record import Metric

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from penstock.core.record import Record

LADDER = ("min", "p50", "p90", "p95", "p99", "max")
STATISTICS = ("mean", *LADDER, "std")
LATENCIES = ("ttft", "tpot", "itl", "chunk_gap", "e2e", "e2e_per_token", "tpot_by_tokens", "schedule_delay")
RATES = {
    "output_throughput": "tokens/s", "total_throughput": "tokens/s", "prompt_throughput": "tokens/s",
    "request_throughput": "requests/s", "goodput": "requests/s",
}  # fmt: skip
COUNTS = {"requests": "requests", "errors": "requests"}
LENGTHS = ("prompt_tokens", "output_tokens")
UNITS = {
    **dict.fromkeys(LATENCIES, "s"), **dict.fromkeys(LENGTHS, "tokens"), **RATES, **COUNTS,
    "tokens_per_chunk": "tokens", "streams": "requests", "duration": "s",
}  # fmt: skip
_SLACK = 1e-6  # of a value: sums of floats differ in their last digits


@dataclass(frozen=True, slots=True)
class Spread:
    """A quantity's statistics, those that are known.

    `metric` is set where they were worked out here, from every sample.
    """

    statistics: Mapping[str, float]  # of STATISTICS
    n: int | None = None  # samples behind them
    metric: Metric | None = None
    asked: bool = False  # of lengths: the one that all requests were given
    half: float = 0.0  # half of the last digit that was printed: how far off the true value may be

    @classmethod
    def of(cls, metric: Metric) -> Self:
        return cls({name: getattr(metric, name) for name in STATISTICS if name != "std"}, metric.n, metric)

    def get(self, statistic: str) -> float | None:
        return self.statistics.get(statistic)

    @property
    def fixed(self) -> float | None:
        """The one value that all samples have, if that is known."""
        low, high, std, mean = (self.get(name) for name in ("min", "max", "std", "mean"))
        if mean is not None and self.asked:
            return mean
        if mean is not None and ((std is not None and std == 0) or (low is not None and low == high)):
            return mean
        return None

    def scaled(self, factor: float, statistic: str | None = None) -> Spread:
        """All statistics times `factor`, or one."""
        return Spread(
            {name: value * (factor if statistic in (None, name) else 1) for name, value in self.statistics.items()},
            self.n, asked=self.asked, half=self.half * factor,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figures:
    """One measurement."""

    spreads: Mapping[str, Spread]
    at_most: float | None = None  # requests on their way at once
    job: bool = False  # the window of the rates begins with the first request and ends with the last answer
    tail: bool = False  # E2E ends with the stream, which may be after the last text
    tokens_per_step: float = 1.0  # over 1 with speculation

    def get(self, quantity: str, statistic: str = "mean") -> float | None:
        spread = self.spreads.get(quantity)
        return None if spread is None else spread.get(statistic)

    def mean(self, quantity: str) -> float | None:
        return self.get(quantity)

    def n(self, quantity: str) -> int | None:
        spread = self.spreads.get(quantity)
        return None if spread is None else spread.n

    def scaled(self, quantity: str, factor: float, statistic: str | None = None) -> Figures:
        """The same with one quantity, or one statistic of it, in another unit."""
        return replace(self, spreads={**self.spreads, quantity: self.spreads[quantity].scaled(factor, statistic)})

    def slack(self, *quantities: str) -> float:
        """Share by which a product of these may be off as they were printed with so many digits."""
        spreads = [self.spreads[name] for name in quantities if name in self.spreads]
        known = [(each.half, abs(each.statistics["mean"])) for each in spreads if each.half and each.get("mean")]
        return sum(half / (mean - half) if mean > half else math.inf for half, mean in known)

    @property
    def answers(self) -> float | None:
        """Whole answers behind the latencies."""
        found = self.n("e2e") or self.n("ttft") or self.mean("requests")
        return None if found is None else float(found)


def figures_of(record: Record) -> Figures:
    """Of a record, ours or an imported one."""
    spreads: dict[str, Spread] = {}
    parts: dict[str, dict[str, float]] = {}
    for metric in record.metrics:
        base, _, statistic = metric.name.rpartition("_")
        if statistic in STATISTICS and UNITS.get(base) == metric.unit:
            parts.setdefault(base, {})[statistic] = metric.mean
        elif UNITS.get(metric.name) == metric.unit:
            spreads[metric.name] = Spread.of(metric)
    spreads |= {name: Spread(statistics) for name, statistics in parts.items() if name not in spreads}
    asked = record.workload.parameters
    closed = asked.get("arrivals") == "closed" or "at_most" in asked
    cap = asked.get("at_most", asked.get("concurrency")) if closed else None
    per_step = asked.get("tokens_per_step")
    return Figures(
        spreads, float(cap) if isinstance(cap, int | float) else None, job=bool(asked.get("job")),
        tail=bool(asked.get("tail")), tokens_per_step=float(per_step) if isinstance(per_step, int | float) else 1.0,
    )  # fmt: skip


def metrics_of(figures: Figures) -> tuple[Metric, ...]:
    """As a record keeps them: whole where all statistics are known, else a metric a statistic (`ttft_p99`)."""
    made: list[Metric] = []
    for name, spread in figures.spreads.items():
        unit = UNITS[name]
        if spread.metric is not None:
            made.append(spread.metric)
        elif name in RATES or name in COUNTS or name in ("duration", "streams"):
            if (mean := spread.get("mean")) is not None:
                made.append(Metric.from_samples(name, unit, [mean]))
        elif spread.n and all(statistic in spread.statistics for statistic in ("mean", *LADDER)):
            made.append(_whole(name, unit, spread))
        else:
            made += [Metric.from_samples(f"{name}_{key}", unit, [value]) for key, value in spread.statistics.items()]
    return tuple(made)


def _whole(name: str, unit: str, spread: Spread) -> Metric:
    known = {statistic: spread.statistics[statistic] for statistic in LADDER}
    rung = known["min"]
    for statistic in LADDER:  # what physics let pass differs by rounding alone
        rung = known[statistic] = max(known[statistic], rung)
    mean = min(max(spread.statistics["mean"], known["min"]), known["max"])
    n = spread.n or 1
    if n == 1:
        return Metric.from_samples(name, unit, [mean])
    return Metric(
        name=name, unit=unit, n=n, mean=mean, min=known["min"], p50=known["p50"], p90=known["p90"], p95=known["p95"],
        p99=known["p99"], max=known["max"],
    )  # fmt: skip


def close(a: float, b: float, tolerance: float = _SLACK) -> bool:
    """Whether two values differ by less than this share of the larger."""
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=1e-12)
