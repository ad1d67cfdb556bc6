"""The laws in a journal: a Record that can't be true is named there, whoever made it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from penstock.core.machine import fingerprint
from penstock.core.record import Flaw, Metric, Record, Subject, Workload
from penstock.lab.journal.add import add
from penstock.lab.journal.begin import begin
from penstock.lab.journal.check import check
from support.journals import a_journal

if TYPE_CHECKING:
    from pathlib import Path


def record(ttft: float, *more: Metric, **parameters: object) -> Record:
    metrics = (*more, Metric.from_samples("ttft", "s", [ttft] * 3), Metric.from_samples("e2e", "s", [1.0] * 3))
    return Record(
        subject=Subject("x", "1"),
        workload=Workload("w", 0, parameters),
        machine=fingerprint(),
        git=None,
        metrics=metrics,
    )


def test_given_a_record_that_breaks_a_law_then_the_journal_names_it_unless_it_says_so_itself(tmp_path: Path) -> None:
    journal, day = begin("Is it so?", a_journal(tmp_path / "journal").root)
    wrong = record(1.1)
    record(0.5).save(tmp_path / "good.json")
    # Figures of other units and settings of other meanings are not the laws' to judge.
    others = record(0.5, Metric.from_samples("chunk_gap_mean", "1", [-0.5]), tokens_per_step="auto")
    others.save(tmp_path / "others.json")
    wrong.save(tmp_path / "wrong.json")
    msgspec.structs.replace(wrong, flaws=(Flaw("invalid", "The clock was set."),)).save(tmp_path / "known.json")
    add(day, [tmp_path / f"{name}.json" for name in ("good", "others", "wrong", "known")])
    (named,) = {each.where for each in check(journal) if each.kind == "record"}
    assert named.endswith("metrics.json#wrong")
