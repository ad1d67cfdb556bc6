"""Two measurements beside each other: how much changed, and whether the change is real.

The unit is a run or a repeat of one, never a request: requests of a run share its minute and its machine, and so many
of them would make any difference look sure. Sides of several Records are compared run by run; single Records repeat by
repeat, by the samples they hold or by what was seen of each repeat, where that is attached.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.core.errors import InvalidRequestError
from penstock.lab.journal.fields import higher_is_better, metric_of
from penstock.lab.journal.repeats import Repeats, are_repeats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.core.record import Metric, Record
    from penstock.lab.journal.evidence import Exhibit
    from penstock.lab.statistics import Ratio, Verdict

HEADLINES = (
    "output_throughput", "request_throughput", "goodput", "ttft", "tpot", "itl", "inter_token", "e2e",
)  # fmt: skip
_VOLATILE = (
    "command",
    "seeds",
    "endpoint",
    "settings",
    "repeats",
    "rounds",
)  # parameters that don't make it another workload


@dataclass(frozen=True, slots=True)
class Change:
    """From a to b. `ratio` is b over a, between `low` and `high` at 95 %: None where nothing tells its error."""

    workload: str
    metric: str
    unit: str
    a: float
    b: float
    ratio: float
    low: float | None
    high: float | None
    verdict: Verdict
    basis: str  # "4 pairs of runs", "3 and 5 repeats", "one run each"
    ratios: tuple[float, ...] = ()  # of the pairs, if there are any

    @property
    def real(self) -> bool:
        return self.verdict in ("faster", "slower")


@dataclass(frozen=True, slots=True)
class Comparison:
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]  # what else differs
    sides: dict[str, tuple[list[Exhibit], list[Exhibit]]]  # both sides' Records of each workload


def compare(
    a: Sequence[Exhibit], b: Sequence[Exhibit], metrics: Sequence[str] = (), margin: float = 0.03
) -> Comparison:
    """Each workload that both sides have, metric by metric ("ttft.p99"; those of `HEADLINES` unless told otherwise).

    Raises InvalidRequestError if the sides have no metric in common.
    """
    if not a or not b:
        raise InvalidRequestError("Each side of a comparison needs a Record.", param="record")
    groups = _paired(a, b)
    warnings: list[str] = []
    changes: list[Change] = []
    for name, (first, second) in groups.items():
        warnings += _differences(first[-1].record, second[-1].record)
        single = len(first) == len(second) == 1
        repeats = [Repeats(side[0]) for side in (first, second)] if single else []
        for metric in metrics or _common(first, second):
            change = _change(name, metric, first, second, repeats, margin)
            if change is not None:
                changes.append(change)
    if not changes:
        names = ", ".join(metrics) or "no metric above zero"
        raise InvalidRequestError(f"The sides can't be compared: both have {names} in no workload.", param="metric")
    return Comparison(tuple(changes), tuple(dict.fromkeys(warnings)), groups)


def workload_key(record: Record) -> str:
    """The same for Records that were made to do the same."""
    parameters = {name: value for name, value in record.workload.parameters.items() if name not in _VOLATILE}
    return msgspec.json.encode([record.workload.name, parameters], order="sorted").decode()


def _paired(a: Sequence[Exhibit], b: Sequence[Exhibit]) -> dict[str, tuple[list[Exhibit], list[Exhibit]]]:
    """Both sides' Records of each workload, oldest first. Two single Records are a pair, whatever their workloads."""
    if len(a) == len(b) == 1:
        return {a[0].record.workload.name: (list(a), list(b))}
    keys = [workload_key(each.record) for each in (*a, *b)]
    shared = [key for key in dict.fromkeys(keys) if key in keys[: len(a)] and key in keys[len(a) :]]
    if not shared:
        raise InvalidRequestError("The sides have no workload in common.", param="record")
    groups: dict[str, tuple[list[Exhibit], list[Exhibit]]] = {}
    for key in shared:
        sides = [sorted((e for e in side if workload_key(e.record) == key), key=_created) for side in (a, b)]
        label = workload_label(sides[0][0].record)
        alike = sum(each == label or each.startswith(f"{label} (") for each in groups)
        groups[f"{label} ({alike + 1})" if alike else label] = (sides[0], sides[1])
    return groups


def _created(exhibit: Exhibit) -> Any:
    return exhibit.record.created


def workload_label(record: Record) -> str:
    """The workload's name, and what tells it from others of that name."""
    shown = [
        f"{k} {v}" for k, v in record.workload.parameters.items() if k in ("concurrency", "rate", "streams", "batch")
    ]
    return ", ".join([record.workload.name, *shown])


def _common(a: Sequence[Exhibit], b: Sequence[Exhibit]) -> list[str]:
    there = [{metric.name for metric in each.record.metrics} for each in (*a, *b)]
    common = set.intersection(*there)
    return [name for name in HEADLINES if name in common] or sorted(common)


def _change(
    workload: str,
    metric: str,
    first: Sequence[Exhibit],
    second: Sequence[Exhibit],
    repeats: Sequence[Repeats],
    margin: float,
) -> Change | None:
    """None if a side hasn't the metric, or it isn't above zero. `repeats`: of sides that are one Record each."""
    from penstock.lab.statistics import Verdict, paired_ratio, unpaired_ratio, verdict

    found = [[metric_of(each.record, metric) for each in side] for side in (first, second)]
    sides = [[each for each in side if each is not None] for side in found]
    if not all(sides) or any(value <= 0 for side in sides for _, value in side):
        return None
    kind: Metric = sides[0][0][0]
    runs = [[value for _, value in side] for side in sides]
    what = "runs"
    if repeats:
        runs = [list(side.of(metric)) for side in repeats]
        what = "repeats"
    ratios: tuple[float, ...] = ()
    ratio: Ratio | None = None
    basis = "one run each, so nothing tells how much runs differ"
    if all(len(values) > 1 and min(values) > 0 for values in runs):
        if len(runs[0]) == len(runs[1]):
            ratio = paired_ratio(runs[1], runs[0])
            ratios = tuple(y / x for x, y in zip(*runs, strict=True))
            basis = f"{len(ratios)} pairs of {what}"
        else:
            ratio = unpaired_ratio(runs[1], runs[0])
            basis = f"{len(runs[0])} and {len(runs[1])} {what}"
    elif repeats:
        ratio = _of_means(first[0].record, second[0].record, metric)
        basis = basis if ratio is None else f"means of {sides[0][0][0].n} and {sides[1][0][0].n} repeats"
    a, b = (math.fsum(value for _, value in side) / len(side) for side in sides)
    if basis.startswith("means"):
        a, b = (side[0][0].mean for side in sides)
    if ratio is None:
        return Change(workload, metric, kind.unit, a, b, b / a, None, None, Verdict.INCONCLUSIVE, basis)
    better = higher_is_better(kind.name, kind.unit)
    interval = ratio.interval
    found_out = verdict(ratio, higher_is_better=better, margin=margin)
    if any(each.record.flaws for each in (*first, *second)):
        found_out, basis = Verdict.INCONCLUSIVE, f"{basis}, some of them cut or invalid"
    return Change(
        workload, metric, kind.unit, a, b, ratio.estimate,
        interval.low if interval else None, interval.high if interval else None,
        found_out, basis, ratios,
    )  # fmt: skip


def _of_means(a: Record, b: Record, metric: str) -> Ratio | None:
    """By Welch's t on logarithms, from means and intervals of repeats whose samples weren't kept; None without them."""
    from penstock.lab.statistics import Ratio, t_quantile

    logs, squares, degrees = [], [], []
    for record in (a, b):
        found = metric_of(record, metric)
        if found is None or found[0].ci is None or found[0].mean <= 0 or not are_repeats(record, found[0].n):
            return None
        own = found[0]
        half = (found[0].ci.high - found[0].ci.low) / 2
        degrees.append(own.n - 1)
        logs.append(math.log(own.mean))
        squares.append((half / t_quantile((1 + found[0].ci.level) / 2, own.n - 1) / own.mean) ** 2)
    total = sum(squares)
    below = sum(square**2 / n for square, n in zip(squares, degrees, strict=True))
    freedom = total**2 / below if below > 0 else float(sum(degrees))
    return Ratio(min(degrees) + 1, logs[1] - logs[0], math.sqrt(total), freedom, None)


def _differences(a: Record, b: Record) -> list[str]:
    """What differs beside the figures, in words."""
    found = ["Both sides are the same Record."] if a == b else []
    if a.machine.hardware() != b.machine.hardware():
        found.append("The machines differ, so a change may be theirs.")
    elif a.machine.kernel != b.machine.kernel:
        found.append(f"The kernels differ: {a.machine.kernel} and {b.machine.kernel}.")
    if workload_key(a) != workload_key(b):
        names = sorted(
            name
            for name in {*a.workload.parameters, *b.workload.parameters} - set(_VOLATILE)
            if a.workload.parameters.get(name) != b.workload.parameters.get(name)
        )
        found.append(f"The workloads differ in {', '.join(names) or 'their names'}.")
    if a.workload.seed != b.workload.seed:
        found.append(f"The seeds differ: {a.workload.seed} and {b.workload.seed}.")
    settings = sorted(
        name
        for name in {*a.subject.configuration, *b.subject.configuration}
        if a.subject.configuration.get(name) != b.subject.configuration.get(name)
    )
    if settings and a.subject.name == b.subject.name:
        found.append(f"The settings differ in {', '.join(settings)}.")
    versions = sorted(n for n in {*a.packages} & {*b.packages} if a.packages[n] != b.packages[n])
    if versions:
        found.append(
            "Packages differ: " + ", ".join(f"{n} {a.packages[n]} and {b.packages[n]}" for n in versions) + "."
        )
    for name, record in (("first", a), ("second", b)):
        if record.git is not None and record.git.dirty:
            found.append(f"The {name} was measured from a dirty checkout.")
        found += [f"The {name} is flawed: {flaw.reason}" for flaw in record.flaws]
    return found
