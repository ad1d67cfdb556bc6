"""`penstock bench report`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from penstock.cli.main import main
from support.report_pages import save_record, some_run

if TYPE_CHECKING:
    from pathlib import Path


def test_a_record_becomes_a_page_beside_it(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = save_record(alone, [some_run(seed=1), some_run(seed=2)])
    assert main(["bench", "report", str(record)]) == 0
    page = (alone / "chat.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "SLO ttft:150ms,tpot:30ms" in page
    assert "Repeat 2" in page
    assert capsys.readouterr().err.startswith(f"Written: {alone / 'chat.html'}")


def test_observations_alone_are_repeats_of_one_run(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_record(alone, [some_run(seed=1), some_run(seed=2)])
    arguments = ["bench", "report", "chat-0.npz", "chat-1.npz", "--markdown", "--slo", "ttft:1s", "--title", "Two"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert said.startswith("# Two\n\n2 repeats · SLO ttft:1000ms\n")
    assert "| Goodput, mean |" in said


def test_several_records_go_into_a_folder(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [str(save_record(alone, [some_run()], name=name)) for name in ("a", "b")]
    assert main(["bench", "report", *records, "--out", "pages", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["pages"]
    assert [each["page"] for each in told] == ["pages/a.html", "pages/b.html"]
    assert all((alone / each["page"]).exists() for each in told)
    assert main(["bench", "report", *records, "--out", "one.html"]) == 2
    assert "name a folder" in capsys.readouterr().err


def test_observations_that_changed_are_not_drawn_and_the_page_says_so(
    alone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = save_record(alone, [some_run()])
    some_run(seed=5).save(alone / "chat-0.npz")
    assert main(["bench", "report", str(record), "--markdown"]) == 0
    said = capsys.readouterr().out
    assert "has changed since its record was written" in said
    assert "The record names no flaw" in said


@pytest.mark.parametrize(
    ("name", "content", "code", "words"),
    [
        ("gone.json", None, 10, "can't be read"),
        ("gone.npz", None, 2, "holds no observations"),
        ("broken.npz", b"no archive", 2, "holds no observations"),
        ("broken.json", b"{}", 10, "is not a record"),
        ("table.csv", b"a,b", 2, "neither a record"),
    ],
)
def test_a_file_that_is_neither_is_named(
    alone: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes | None, code: int, words: str
) -> None:
    if content is not None:
        (alone / name).write_bytes(content)
    assert main(["bench", "report", name]) == code
    said = capsys.readouterr().err
    assert words in said
    assert name in said


def test_a_bound_or_a_place_that_makes_no_sense_is_refused(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = str(save_record(alone, [some_run(12)]))
    assert main(["bench", "report", record, "--slo", "ttft=fast"]) == 2
    assert "'ttft=fast' is no bound" in capsys.readouterr().err
    (alone / "file").write_text("")
    assert main(["bench", "report", record, "--out", "file/page.html"]) == 2
    assert "can't be written" in capsys.readouterr().err
