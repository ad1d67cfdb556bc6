"""From runs to figures, and from figures to ratios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.lab.bench.metrics import latencies, totals
from penstock.lab.bench.records import metrics_of
from penstock.lab.statistics import paired_ratio, verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.lab.bench.observations import Observations
    from penstock.lab.bench.slo import Slo
    from penstock.lab.statistics import Ratio, Verdict

MOST_ERRORS = 0.01  # share of a run's requests that may fail; of those that fail nothing is known, and they cost less

# Figure -> unit, and whether more of it is better.
FIGURES: Mapping[str, tuple[str, bool]] = {
    "output_throughput": ("tokens/s", True),
    "request_throughput": ("requests/s", True),
    "goodput": ("requests/s", True),
    "ttft mean": ("s", False),
    "ttft p50": ("s", False),
    "ttft p95": ("s", False),
    "tpot mean": ("s", False),
    "tpot p95": ("s", False),
    "itl mean": ("s", False),
    "itl p99": ("s", False),
    "e2e mean": ("s", False),
    "e2e p95": ("s", False),
}


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """One run of one contender."""

    round: int
    place: int  # counted over the whole comparison
    name: str
    run: Observations
    figures: dict[str, float]
    reasons: tuple[str, ...]  # why it can't be believed


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of one contender beside the baseline."""

    name: str
    baseline: str
    figure: str
    ratio: Ratio
    verdict: Verdict
    pairs: tuple[float, ...]  # a ratio a round


def figures_of(run: Observations, slo: Slo | None) -> dict[str, float]:
    """Of one run, as its Record would have them; only those that are over zero.

    Inter-token latency is of all tokens of the run: a request's own mean is its TPOT, and says nothing of long gaps.
    """
    there = {metric.name: metric for metric in metrics_of([run], slo)}
    values = {}
    for figure in FIGURES:
        name, _, statistic = figure.partition(" ")
        if name in there and (value := getattr(there[name], statistic or "mean")) > 0:
            values[figure] = float(value)
    return values


def reasons_against(run: Observations, slo: Slo | None) -> tuple[str, ...]:
    """Why a run can't be compared."""
    sums = totals(run, latencies(run), slo)
    failed = sum(sums.errors.values())
    reasons = list(run.meta["invalid"])
    if failed > MOST_ERRORS * sums.requests or not sums.requests:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sums.errors.items())
        detail = next(iter(run.details.values()), "")
        said = f", which said: {' '.join(detail.split())[:200]}" if detail else ""
        reasons.append(f"{failed} of {sums.requests} requests failed ({kinds}){said}")
    return tuple(reasons)


def compared(slots: Sequence[Slot], names: Sequence[str], baseline: str, margin: float) -> list[Compared]:
    """Every contender beside the baseline, in every figure that both have; rounds that lack a run are left out."""
    by_round: dict[str, dict[int, Slot]] = {name: {} for name in names}
    for slot in slots:
        if not slot.reasons:
            by_round[slot.name][slot.round] = slot
    result = []
    for name in names:
        if name == baseline:
            continue
        rounds = sorted(by_round[name].keys() & by_round[baseline].keys())
        for figure, (_, higher) in FIGURES.items():
            pairs = [(by_round[name][number], by_round[baseline][number]) for number in rounds]
            pairs = [(a, b) for a, b in pairs if figure in a.figures and figure in b.figures]
            if not pairs:
                continue
            mine, theirs = [a.figures[figure] for a, _ in pairs], [b.figures[figure] for _, b in pairs]
            ratio = paired_ratio(mine, theirs, lag=[a.place - b.place for a, b in pairs])
            each = tuple(a / b for a, b in zip(mine, theirs, strict=True))
            said = verdict(ratio, higher_is_better=higher, margin=margin)
            result.append(Compared(name, baseline, figure, ratio, said, each))
    return result


def cost(throughput: float, price_per_hour: float) -> float:
    """Of a million output tokens, in the price's own currency."""
    return price_per_hour / (throughput * 3600) * 1e6
