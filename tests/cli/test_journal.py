"""`penstock journal` from the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from penstock.core.record import Record
from support.journals import a_record, throughput

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def measured(alone: Path) -> Path:
    """A folder with one Record."""
    a_record().save(alone / "measured" / "chat.json")
    return alone / "measured"


def answer(ran: Any) -> Any:
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def test_a_day_from_its_beginning_to_the_site(penstock: Callable[..., Any], alone: Path, measured: Path) -> None:
    day = answer(penstock("journal", "new", "Huge pages", "--journal", "journal", "--json"))
    assert day["name"] == "day-001-huge-pages"
    assert answer(penstock("journal", "add", measured, "--json"))["records"] == ["chat"]
    log = alone / "journal" / "days" / day["name"] / "LOG.md"
    log.write_text(
        "# Day\n\nDate: 2026-01-01\n\n## Result\n\nTTFT is 12.3 ms.\n\n## What I learned\n\n- It was 19 ms.\n"
    )
    ran = penstock("journal", "check")
    assert ran.code == 10
    assert "LOG.md:11: 19 ms is in no Record" in ran.out
    assert [each["kind"] for each in json.loads(penstock("journal", "check", "--json").out)["problems"]] == ["figure"]
    log.write_text(log.read_text().replace("19 ms", "12.34 ms"))
    assert penstock("journal", "check").code == 0
    [promoted] = answer(penstock("journal", "promote", "--topic", "memory", "--json"))["promoted"]
    assert promoted["records"] == ["journal/benchmarks/huge-pages/chat.json"]
    assert answer(penstock("journal", "index", "--json"))["written"]
    assert not answer(penstock("journal", "index", "--json"))["written"]
    assert penstock("journal", "check").code == 0
    assert answer(penstock("journal", "matrix", "--json"))["holes"] == []
    assert "8 x 128+64" in penstock("journal", "matrix").out
    [trend] = answer(penstock("journal", "history", "output_throughput", "--out", "drawn", "--json"))["trends"]
    assert [moment["commit"] for moment in trend["moments"]] == ["a" * 40]
    assert len(list((alone / "drawn").glob("*.svg"))) == 1
    assert answer(penstock("journal", "site", "--out", "site", "--json"))["pages"] > 4
    assert (alone / "site" / "topics" / "memory" / "overview.html").exists()
    assert penstock("journal", "site", "--out", "site").code == 0
    assert penstock("journal", "site", "--out", "measured").code == 2


def test_comparing_files_folders_and_days(penstock: Callable[..., Any], alone: Path, measured: Path) -> None:
    throughput(199.0, 200.4, 202.2).save(alone / "after" / "chat.json")
    [change] = answer(penstock("journal", "compare", measured, "after", "--json", "--metric", "output_throughput"))[
        "changes"
    ]
    assert change["verdict"] == "faster"
    assert change["real"] is True
    assert penstock("journal", "new", "x").code == 0
    assert penstock("journal", "add", measured).code == 0
    ran = penstock("journal", "compare", "1#chat", "after/chat.json", "--metric", "output_throughput")
    assert ran.code == 0
    assert "3 pairs of repeats" in ran.out
    asked = ("journal", "compare", "1#chat", "after/chat.json", "--margin", "0.05")
    [kept] = answer(penstock(*asked, "--add", "--json"))["kept"]
    assert Record.load(alone / kept).command == ("penstock", *asked)  # its verdicts are for that margin
    assert penstock("journal", "check").code == 0
    assert penstock("journal", "compare", "1#nothing", "after").code == 4
    assert penstock("journal", "compare", "after").code == 2


def test_mistakes_are_one_line_and_a_code(penstock: Callable[..., Any], alone: Path, measured: Path) -> None:
    ran = penstock("journal", "check")
    assert ran.code == 4
    assert "penstock journal new" in ran.err
    (alone / "journal").mkdir()
    (alone / "journal" / "journal.toml").write_text("pagess = []")
    ran = penstock("journal", "check")
    assert ran.code == 9
    assert "pagess" in ran.err
    (alone / "journal" / "journal.toml").write_text("")
    assert penstock("journal", "add", measured).code == 4
    assert penstock("journal", "rerun", measured / "chat.json").code == 2
    assert penstock("journal", "history", "speed").code == 2
    assert penstock("journal", "figures", "nowhere.md").code == 4
    assert penstock("journal", "renumber", "7").code == 4


def test_plots_and_figures_are_written_when_they_change(
    penstock: Callable[..., Any], alone: Path, measured: Path
) -> None:
    root = alone / "journal"
    a_record().save(root / "benchmarks" / "r.json")
    (root / "journal.toml").write_text('[[plot]]\nname = "p"\nrecords = "*.json"\nmetric = "ttft.p99"\ntitle = "<&>"\n')
    (root / "topics" / "t").mkdir(parents=True)
    page = root / "topics" / "t" / "overview.md"
    page.write_text('<!-- journal:figure records="r.json" metric="ttft" unit="ms" --><!-- /journal -->\n')
    assert len(answer(penstock("journal", "plot", "--json"))["written"]) == 1
    assert answer(penstock("journal", "plot", "--json"))["written"] == []
    assert len(answer(penstock("journal", "figures", "--json"))["written"]) == 1
    assert "-->12.34 ms<!--" in page.read_text()
    assert penstock("journal", "check").code == 0
