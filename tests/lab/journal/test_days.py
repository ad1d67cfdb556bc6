"""Days begun, filled, promoted, and held together by the check."""

from __future__ import annotations

import datetime
import subprocess
from typing import TYPE_CHECKING

import msgspec
import pytest

from penstock.core.errors import InvalidRequestError, NotFoundError, RecordError
from penstock.core.record import Attachment, Flaw
from penstock.lab.journal.add import add
from penstock.lab.journal.begin import TEMPLATE_RESULT, begin, renumber
from penstock.lab.journal.check import check
from penstock.lab.journal.entries import Metrics
from penstock.lab.journal.evidence import Evidence
from penstock.lab.journal.index import index
from penstock.lab.journal.layout import Journal, topic_slug
from penstock.lab.journal.promote import promote, waiting
from support.journals import a_journal, a_record, throughput

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.core.record import Record
    from penstock.lab.journal.layout import Day


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return a_journal(tmp_path / "repo" / "journal")


def saved(folder: Path, record: Record | None = None, name: str = "r.json") -> Path:
    path = folder / name
    (record or a_record()).save(path)
    return path


def a_day(journal: Journal, result: str = "", learned: str = "", topic: str = "Huge pages") -> Day:
    _, day = begin(topic, journal.root, date=datetime.date(2026, 1, 2))
    text = day.log.read_text()
    head, _, _ = text.partition("## Result")
    day.log.write_text(f"{head}## Result\n\n{result}\n\n## What I learned\n\n{learned}\n")
    return day


def problems(journal: Journal, *kinds: str) -> list[str]:
    return [str(each) for each in check(journal) if not kinds or each.kind in kinds]


def test_a_first_day_makes_a_journal_at_the_top_of_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    journal, day = begin("Does it spin?")
    assert journal.root == (tmp_path / "journal").resolve()
    assert day.name == "day-001-does-it-spin"
    assert all(f"## {name}" in day.log.read_text() for name in ("Hypothesis", "Method", "Prediction", "Result"))
    assert (day.folder / "code").is_dir()
    assert journal.day("Does it spin?") == day
    assert begin("Again")[1].number == 2
    assert Journal.find() == journal
    assert problems(journal) == ["journal/days/day-001-does-it-spin/LOG.md: Its result is still to be written."]


def test_no_journal_upwards_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="penstock journal new"):
        Journal.find(start=tmp_path)


@pytest.mark.parametrize("name", ["2", "002", "day-002-x", "x", "journal/days/day-002-x/"])
def test_a_day_is_found_by_number_folder_and_topic(journal: Journal, name: str) -> None:
    begin("a", journal.root)
    begin("x", journal.root)
    assert journal.day(name).number == 2


def test_a_topic_without_letters_is_refused() -> None:
    assert topic_slug("Huge pages (again)") == "huge-pages-again"
    with pytest.raises(InvalidRequestError, match="topic"):
        topic_slug("../..")


def test_a_folder_is_added_with_json_that_is_attached_to_its_records(journal: Journal, tmp_path: Path) -> None:
    folder = tmp_path / "compared"
    folder.mkdir()
    (folder / "comparison.json").write_text("{}")
    saved(folder, a_record(files=(Attachment.of(folder / "comparison.json", folder),)))
    assert add(a_day(journal), [folder]) == ["r"]
    (folder / "other.json").write_text("{}")
    with pytest.raises(RecordError, match=r"other\.json"):
        add(a_day(journal, topic="next"), [folder])


def test_an_added_record_is_the_same_with_its_files_copied(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "raw.npz").write_bytes(b"seen")
    record = a_record(files=(Attachment.of(tmp_path / "raw.npz", tmp_path),))
    day = a_day(journal)
    assert add(day, [saved(tmp_path, record)]) == ["r"]
    assert add(day, [tmp_path / "r.json"]) == ["r"]
    assert add(day, [saved(tmp_path / "other", a_record(notes=("again",)))]) == ["r-2"]
    evidence = Evidence(journal)
    evidence.verify()
    assert evidence.problems == []
    [one, other] = evidence.of_days[day]
    assert msgspec.structs.replace(one.record, files=()) == msgspec.structs.replace(record, files=())
    assert (day.folder / one.record.files[0].path).read_bytes() == b"seen"
    assert other.record == a_record(notes=("again",))


def test_records_of_which_one_is_broken_are_all_left_out(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "half.json").write_bytes(a_record().to_json()[:-9])
    day = a_day(journal)
    with pytest.raises(RecordError, match=r"half\.json"):
        add(day, [saved(tmp_path), tmp_path / "half.json"])
    assert Metrics.load(day.metrics).records == ()


def test_figures_of_a_log_are_held_against_its_records(journal: Journal, tmp_path: Path) -> None:
    day = a_day(journal, "TTFT is 12.3 ms.\nIt was 19 ms before.")
    add(day, [saved(tmp_path)])
    [problem] = problems(journal)
    line = day.log.read_text().splitlines().index("It was 19 ms before.") + 1
    assert problem.startswith(f"journal/days/{day.name}/LOG.md:{line}: 19 ms is in no Record")
    assert f"13.47 ms, the interval of ttft in journal/days/{day.name}/metrics.json#r" in problem


def test_a_figure_of_another_record_must_be_linked(journal: Journal) -> None:
    saved(journal.benchmarks / "chat")
    day = a_day(journal, "TTFT is 12.3 ms.")
    assert "link it here" in problems(journal)[0]
    day.log.write_text(day.log.read_text() + "\nSee [r](../../benchmarks/chat/r.json).\n")
    assert problems(journal) == []
    day.log.write_text(day.log.read_text() + "\nSee [s](../../benchmarks/chat/s.json).\n")
    assert "There is no ../../benchmarks/chat/s.json" in problems(journal)[0]


def test_a_flawed_record_proves_nothing(journal: Journal, tmp_path: Path) -> None:
    day = a_day(journal, "TTFT is 12.3 ms.")
    add(day, [saved(tmp_path, a_record(flaws=(Flaw("cut", "Ended early."),)))])
    assert "that run was cut or is invalid" in problems(journal)[0]


def test_what_is_wrong_with_records_is_named_by_file(journal: Journal, tmp_path: Path) -> None:
    half = journal.benchmarks / "half.json"
    half.write_bytes(a_record().to_json()[:-9])
    newer = a_record().to_json().replace(b'"schema_version": 2', b'"schema_version": 99')
    (journal.benchmarks / "newer.json").write_bytes(newer)
    (tmp_path / "x.npz").write_bytes(b"1")
    saved(tmp_path, a_record(files=(Attachment.of(tmp_path / "x.npz", tmp_path),)))
    (tmp_path / "r.json").replace(journal.benchmarks / "lost.json")
    day = a_day(journal)
    day.metrics.write_text('{"schema_version": 1,\n<<<<<<< ours\n')
    found = "\n".join(problems(journal, "record"))
    assert "benchmarks/half.json: " in found
    assert "schema 99" in found
    assert "lost.json: The record's file" in found
    assert f"{day.name}/metrics.json: " in found
    assert "merge conflict" in found


def test_two_days_with_one_number_are_named_and_can_be_renumbered(journal: Journal) -> None:
    first = a_day(journal, topic="a")
    a_day(journal, topic="b").folder.rename(journal.root / "days" / "day-001-c")
    [problem] = problems(journal, "layout")
    assert "penstock journal renumber day-001-c" in problem
    renamed = renumber(journal, journal.day("day-001-c"))
    assert renamed.name == "day-002-c"
    assert problems(journal, "layout") == []
    assert journal.day("1") == first


def test_a_merge_conflict_left_in_a_log_is_named(journal: Journal) -> None:
    a_day(journal, "<<<<<<< ours\n1.5 ms\n=======\n2.5 ms\n>>>>>>> theirs")
    assert [each.rpartition(": ")[2] for each in problems(journal)] == ["A merge conflict is left in it."]


def test_a_link_to_nothing_is_named_but_not_one_in_code(journal: Journal) -> None:
    a_day(
        journal,
        "```\n[a](gone.py)\n```\n`[b](gone.md)` [c](https://x.example/gone) [d](#result) [e](LOG.md#x)\n[f](gone.md)",
    )
    [problem] = problems(journal)
    assert problem.endswith("There is no gone.md that it links.")
    lines = journal.days[0].log.read_text().splitlines()
    assert "[f]" in lines[int(problem.split(":")[1]) - 1]


def test_the_index_is_the_same_each_time_and_stale_when_something_came(journal: Journal, tmp_path: Path) -> None:
    a_day(journal, learned="- Pages matter. And more.")
    text = index(Evidence(journal))
    assert text == index(Evidence(journal))
    assert "| [001 huge-pages](days/day-001-huge-pages/LOG.md) | 2026-01-02 | Pages matter. | 0 |  |" in text
    (journal.root / "JOURNAL_INDEX.md").write_text(text)
    assert problems(journal, "stale") == []
    saved(journal.benchmarks)
    assert problems(journal, "stale") == ["journal/JOURNAL_INDEX.md: It is out of date: penstock journal index"]


def test_promotion_moves_records_and_lessons_and_does_so_once(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "raw.npz").write_bytes(b"seen")
    day = a_day(journal, "TTFT is 12.3 ms.", "- Pages cut TTFT to 12.3 ms, see [code](code/a.py).")
    (day.folder / "code" / "a.py").write_text("print(1)\n")
    add(day, [saved(tmp_path, a_record(files=(Attachment.of(tmp_path / "raw.npz", tmp_path),)))])
    done = promote(journal, day, "memory")
    assert done.records == ("journal/benchmarks/huge-pages/r.json",)
    kept = journal.benchmarks / "huge-pages" / "r.json"
    assert (kept.parent / "r.files" / "raw.npz").read_bytes() == b"seen"
    overview = journal.root / "topics" / "memory" / "overview.md"
    assert "[code](../../days/day-001-huge-pages/code/a.py)" in overview.read_text()
    assert (journal.root / "topics" / "memory" / "examples" / "a.py").read_text() == "print(1)\n"
    assert problems(journal) == []
    before = {path: path.read_bytes() for path in journal.root.rglob("*") if path.is_file()}
    assert promote(journal, day, "memory").records == ()
    assert before == {path: path.read_bytes() for path in journal.root.rglob("*") if path.is_file()}
    kept.write_bytes(kept.read_bytes().replace(b"0.0121", b"0.0120"))
    assert any("has changed since" in problem or "not a record" in problem for problem in problems(journal))


def test_a_day_without_a_result_is_not_promoted_and_waits_until_it_has_one(journal: Journal, tmp_path: Path) -> None:
    _, day = begin("x", journal.root)
    add(day, [saved(tmp_path)])
    assert waiting(journal) == []
    with pytest.raises(InvalidRequestError, match="still to be written"):
        promote(journal, day)
    assert "| [001 x](days/day-001-x/LOG.md) |" in (text := index(Evidence(journal)))
    assert "|  | 1 |  |" in text  # nothing of the template
    day.log.write_text(day.log.read_text().replace(TEMPLATE_RESULT, "TTFT is 12.3 ms."))
    assert waiting(journal) == [day]
    assert len(promote(journal, day).records) == 1
    assert waiting(journal) == []
    add(day, [saved(tmp_path, throughput(1.0), "later.json")])
    assert waiting(journal) == [day]  # for what came after
    day.log.unlink()
    with pytest.raises(InvalidRequestError, match="no LOG"):
        promote(journal, day)


def test_a_record_of_another_schema_is_named_once_by_its_place(journal: Journal) -> None:
    path = saved(journal.benchmarks)
    path.write_text(path.read_text().replace('"schema_version": 2', '"schema_version": 3'))
    [problem] = problems(journal)
    assert problem.startswith("journal/benchmarks/r.json: It is not a record that can be used: It follows schema 3")
    assert "Update Penstock" in problem


def test_what_programs_wrote_into_a_raw_folder_is_no_record(journal: Journal) -> None:
    saved(journal.benchmarks)
    (journal.benchmarks / "raw" / "of-one-run").mkdir(parents=True)
    (journal.benchmarks / "raw" / "of-one-run" / "profile.json").write_text("{}")
    saved(journal.benchmarks / "raw")
    assert problems(journal) == []
    assert [exhibit.label(journal) for exhibit in Evidence(journal).kept] == ["journal/benchmarks/r.json"]


def test_a_week_of_days_without_promotion_is_reminded_of(journal: Journal) -> None:
    days = [a_day(journal, topic=f"t{i}") for i in range(7)]
    assert problems(journal) == [
        "journal/days: 7 days since lessons were last lifted: penstock journal promote day-001-t0"
    ]
    promote(journal, days[3])
    assert problems(journal) == []
