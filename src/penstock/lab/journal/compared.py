"""A comparison as a Record, so that what it found can be quoted."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.core.errors import RecordError
from penstock.core.record import Flaw, Interval, Metric, Record, Subject, Workload, git_state
from penstock.lab.journal.layout import SLUG_MOST, topic_slug

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from penstock.lab.journal.compare import Change, Comparison
    from penstock.lab.journal.evidence import Exhibit
    from penstock.lab.journal.layout import Journal

FOLDER = "compare"  # below the folder of Records
KEY = "compared"  # of the workload's parameters: what was compared


def keep(journal: Journal, names: tuple[str, str], found: Comparison, command: Sequence[str] = ()) -> list[Path]:
    """Write a Record for each workload compared; one of the same sides that is there already is written over.

    Its metrics are ratios, `ttft_p99_ratio` the one of ttft.p99: b over a, a sample a pair, whose mean is the geometric
    one, with the interval that the verdict was made of.

    Raises RecordError if it can't be written.
    """
    stem = _stem(*names)
    written = []
    for workload, (a, b) in found.sides.items():
        changes = [change for change in found.changes if change.workload == workload]
        if not changes:
            continue
        path = journal.benchmarks / FOLDER / f"{stem}{f'-{topic_slug(workload)}' if len(found.sides) > 1 else ''}.json"
        _record(journal, a, b, changes, found.warnings, command).save(path)
        written.append(path)
    return written


def _record(
    journal: Journal, a: Sequence[Exhibit], b: Sequence[Exhibit], changes: Sequence[Change], warnings: Sequence[str],
    command: Sequence[str],
) -> Record:  # fmt: skip
    before, after = a[-1].record, b[-1].record
    name = after.subject.name
    if name != before.subject.name:
        name = f"{name} beside {before.subject.name}"
    told: dict[str, Any] = {
        "a": [_place(journal, each) for each in a],
        "b": [_place(journal, each) for each in b],
        "verdicts": {change.metric: str(change.verdict) for change in changes},
        "basis": {change.metric: change.basis for change in changes},
    }
    flaws = dict.fromkeys(flaw for each in (*a, *b) for flaw in each.record.flaws)
    return Record(
        subject=Subject(name, after.subject.version, after.subject.configuration),
        workload=Workload(after.workload.name, after.workload.seed, {**after.workload.parameters, KEY: told}),
        machine=after.machine,
        git=git_state(journal.root),
        metrics=tuple(_ratio(change) for change in changes),
        notes=("Metrics are ratios, b over a; their means are geometric.", *warnings),
        flaws=tuple(Flaw(flaw.kind, flaw.reason) for flaw in flaws),
        command=tuple(command),
    )


def _ratio(change: Change) -> Metric:
    name = f"{change.metric.replace('.', '_')}_ratio"
    metric = Metric.from_samples(name, "1", change.ratios or (change.ratio,))
    interval = None
    if change.low is not None and change.high is not None:
        interval = Interval(change.low, change.high, 0.95, "t")
    mean = min(max(change.ratio, metric.min), metric.max)
    return msgspec.structs.replace(metric, mean=mean, ci=interval)


def _place(journal: Journal, exhibit: Exhibit) -> dict[str, str]:
    """Where a side's Record lies, and the checksum of what it said."""
    return {"record": exhibit.label(journal), "sha256": checksum(exhibit.record)}


def checksum(record: Record) -> str:
    """Of what a Record says, wherever its files lie."""
    return hashlib.sha256(msgspec.structs.replace(record, files=()).to_json()).hexdigest()


def changed_since(record: Record, there: dict[str, str]) -> list[str]:
    """Which of the Records that were compared aren't there any more as they were, of those that `there` should have.

    Args:
        there: checksums of the journal's Records, by where they lie.
    """
    told = record.workload.parameters.get(KEY)
    if not isinstance(told, dict):
        return []
    try:
        sides = msgspec.convert([*told["a"], *told["b"]], list[dict[str, str]])
        return [each["record"] for each in sides if there.get(each["record"]) not in (None, each["sha256"])]
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        raise RecordError(f"What it compared can't be read: {error}.") from error


def _stem(a: str, b: str) -> str:
    """ "zen/before.json", "zen/after.json" -> "zen-before-to-after": a folder tells more than a file of both sides'.

    Longer paths lose what's above; a checksum then keeps comparisons apart that would have one name.
    """
    sides, whole = [], True
    for name in (a, b):
        path = name.removesuffix(".json").replace("#", "/")
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        whole &= len(parts) <= 2 and len("-".join(parts)) <= SLUG_MOST
        sides.append(parts[-2:])
    first, second = sides
    if len(first) == len(second) == 2 and first[0] == second[0]:
        second = second[1:]
    stem = f"{topic_slug('-'.join(first))}-to-{topic_slug('-'.join(second))}"
    return stem if whole else f"{stem}-{hashlib.sha256(f'{a} {b}'.encode()).hexdigest()[:8]}"
