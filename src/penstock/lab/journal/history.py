"""A metric over commits on one machine, and where it stepped.

Every version of a Record that git still has counts, not only the newest: benchmarks that overwrite their files have a
history all the same.
"""

from __future__ import annotations

import subprocess
from collections import defaultdict
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError, RecordError
from penstock.core.record import Record
from penstock.lab.journal.chart import Chart, Line, Point
from penstock.lab.journal.compare import workload_key, workload_label
from penstock.lab.journal.fields import machine_name, metric_of, split_metric
from penstock.lab.journal.layout import RAW
from penstock.lab.journal.repeats import are_repeats

if TYPE_CHECKING:
    import datetime
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from penstock.lab.journal.evidence import Evidence

_PERMUTATIONS = 999
_SHORTEST = 2  # points on either side of a step
_ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Moment:
    """One measurement of the metric."""

    commit: str  # "" if it wasn't made from a checkout
    dirty: bool
    created: datetime.datetime
    value: float
    low: float
    high: float
    software: str  # kernel and driver, whose updates may be a step's cause


@dataclass(frozen=True, slots=True)
class Step:
    """From the moment at `index` on, the median is another. `p` is the chance of as great a step without a cause."""

    index: int
    before: float
    after: float
    p: float


@dataclass(frozen=True, slots=True)
class Trend:
    """The moments of one subject under one workload on one hardware, in order."""

    subject: str
    workload: str
    machine: str
    hardware: str
    unit: str
    moments: tuple[Moment, ...]
    steps: tuple[Step, ...]

    def svg(self, metric: str) -> str:
        points = tuple(Point(float(i), moment.value, moment.low, moment.high) for i, moment in enumerate(self.moments))
        names = tuple(moment.commit[:7] + ("*" if moment.dirty else "") or "none" for moment in self.moments)
        title = f"{metric} of {self.subject}, {self.workload}"
        return Chart(
            title, "commits, * dirty", self.unit, (Line(self.subject, points),), log_x=False, log_y=False,
            x_names=names, marks=tuple(step.index - 0.5 for step in self.steps),
        ).svg()  # fmt: skip


def history(evidence: Evidence, metric: str, *, subject: str = "", workload: str = "") -> list[Trend]:
    """The longest trend first. Raises InvalidRequestError if no Record has the metric."""
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    seen = set()
    for record in _versions(evidence):
        found = metric_of(record, metric)
        if found is None or record.flaws or (subject and record.subject.name != subject):
            continue
        if workload and workload not in (record.workload.name, workload_label(record)):
            continue
        once = (record.created, record.subject.name, workload_key(record), found[1])
        if once not in seen:
            seen.add(once)
            groups[record.subject.name, workload_key(record), record.machine.hardware()].append(record)
    if not groups:
        raise InvalidRequestError(f"No Record has the metric {metric!r} here.", param="metric")
    order = _commit_order(evidence.journal.root)
    trends = [_trend(records, metric, order) for _, records in sorted(groups.items())]
    return sorted(trends, key=lambda trend: -len(trend.moments))


def steps_in(values: Sequence[float], *, seed: int = 0) -> list[Step]:
    """Where a series steps: binary segmentation by the greatest difference of means, each split held against
    permutations of its segment (as Matteson and James do with energy distances, A Nonparametric Approach for Multiple
    Change Point Analysis of Multivariate Data, 2014).

    Without a step, one is found in at most a twentieth of all series. Fewer than six values can't show one: too few
    orders of them are more extreme.
    """
    found: list[tuple[int, float]] = []
    _split(list(values), 0, found, Random(seed))
    edges = [0, *sorted(index for index, _ in found), len(values)]
    chances = dict(found)
    return [
        Step(at, _median(values[before:at]), _median(values[at:after]), chances[at])
        for before, at, after in zip(edges, edges[1:], edges[2:], strict=False)
    ]


def _split(values: list[float], start: int, found: list[tuple[int, float]], random: Random) -> None:
    if len(values) < 2 * _SHORTEST:
        return
    at, size = _best_split(values)
    shuffled = list(values)
    as_great = 0
    for _ in range(_PERMUTATIONS):
        random.shuffle(shuffled)
        as_great += _best_split(shuffled)[1] >= size * (1 - 1e-9)
    p = (as_great + 1) / (_PERMUTATIONS + 1)
    if size <= 0 or p > _ALPHA:
        return
    found.append((start + at, p))
    _split(values[:at], start, found, random)
    _split(values[at:], start + at, found, random)


def _best_split(values: Sequence[float]) -> tuple[int, float]:
    """(where, how great): the difference of means on both sides, weighted by what its error would be."""
    n, total = len(values), sum(values)
    best, best_at, left = -1.0, 0, sum(values[: _SHORTEST - 1])
    for k in range(_SHORTEST, n - _SHORTEST + 1):
        left += values[k - 1]
        size = abs(left / k - (total - left) / (n - k)) * (k * (n - k) / n) ** 0.5
        if size > best:
            best, best_at = size, k
    return best_at, best


def _trend(records: list[Record], metric: str, order: dict[str, int]) -> Trend:
    known = all(record.git is not None and record.git.commit in order for record in records)
    records.sort(key=lambda each: (order[each.git.commit] if known and each.git else 0, each.created))
    moments = []
    _, statistic = split_metric(metric)
    for record in records:
        found = metric_of(record, metric)
        if found is None:
            continue
        own, value = found
        low, high = value, value
        if statistic == "p50" and are_repeats(record, own.n):
            low, high = own.min, own.max
        elif statistic == "mean" and own.ci is not None:
            low, high = own.ci.low, own.ci.high
        drivers = ", ".join(sorted({gpu.driver for gpu in record.machine.gpus}))
        commit, dirty = (record.git.commit, record.git.dirty) if record.git else ("", False)
        software = ", ".join(filter(None, (record.machine.kernel, drivers)))
        moments.append(Moment(commit, dirty, record.created, value, low, high, software))
    steps = steps_in([moment.value for moment in moments])
    first, found = records[0], metric_of(records[0], metric)
    unit = found[0].unit if found else ""
    return Trend(
        first.subject.name, workload_label(first), machine_name(first.machine), first.machine.hardware(), unit,
        tuple(moments), tuple(steps),
    )  # fmt: skip


def _versions(evidence: Evidence) -> Iterable[Record]:
    for exhibit in evidence.all:
        yield exhibit.record
    for data in _past(evidence.journal.benchmarks):
        try:
            yield Record.from_json(data)
        except RecordError:
            continue  # attached to one, or what older programs wrote


def _past(folder: Path) -> Iterable[bytes]:
    """The content of every version of every JSON file below the folder that git has; nothing outside a checkout."""
    listing = _git(folder, "log", "--raw", "--no-abbrev", "--no-renames", "--relative", "--format=", "--", ".")
    blobs = dict.fromkeys(
        fields[3]
        for line in listing.decode(errors="replace").splitlines()
        if line.startswith(":")
        and line.endswith(".json")
        and len(fields := line.split(maxsplit=5)) == 6
        and RAW not in line.partition("\t")[2].split("/")[:-1]
    )
    blobs.pop("0" * 40, None)
    if not blobs:
        return
    data = _git(folder, "cat-file", "--batch", given="\n".join(blobs).encode() + b"\n")
    at = 0
    while at < len(data):
        end = data.index(b"\n", at)
        header = data[at:end].split()
        if len(header) != 3:  # "missing", of a shallow clone
            at = end + 1
            continue
        size = int(header[2])
        yield data[end + 1 : end + 1 + size]
        at = end + 2 + size


def _commit_order(folder: Path) -> dict[str, int]:
    lines = _git(folder, "rev-list", "--topo-order", "--reverse", "HEAD").split()
    return {line.decode(): number for number, line in enumerate(lines)}


def _git(folder: Path, *arguments: str, given: bytes = b"") -> bytes:
    try:
        done = subprocess.run(
            ("git", "-C", str(folder), *arguments), input=given, capture_output=True, check=True, timeout=120
        )
    except (OSError, subprocess.SubprocessError):
        return b""
    return done.stdout


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
