"""What is seen of a load test while it runs."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from penstock.cli.bench_watch import watching
from penstock.lab.bench.offer import Progress

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def progress(elapsed: float, finished: int) -> Progress:
    return Progress(elapsed, sent=finished + 2, finished=finished, failed=1, in_flight=2, tokens=500, ttft=0.05)


def drawn(seen: Iterable[Progress], monkeypatch: pytest.MonkeyPatch, **ends: float) -> str:
    """What stood there last."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    with watching(2, **ends) as watch:  # type: ignore[arg-type]
        for each in seen:
            watch(0, each)
    return terminal.getvalue()


def bar(text: str) -> int:
    """Its cells, in the last of however many frames."""
    return len(re.findall("━+", text)[-1])


def test_given_a_terminal_when_a_run_goes_on_then_a_bar_grows_with_what_is_over_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert bar(drawn([progress(1, 5)], monkeypatch, count=20)) == 5  # of 20 cells
    assert bar(drawn([progress(5, 5)], monkeypatch, count=20, seconds=10.0)) == 10  # whichever ends it first
    assert bar(drawn([progress(30, 25)], monkeypatch, count=20)) == 20
    without = drawn([progress(5, 5)], monkeypatch)  # a trace is as long as it is
    assert "━" not in without
    assert "1/2" in without


def test_given_no_terminal_when_a_run_goes_on_then_a_line_every_ten_seconds_says_how_much_is_over(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with watching(2, seconds=40.0) as watch:
        for elapsed in (1, 9, 10, 11, 19, 20.5):
            watch(0, progress(elapsed, 5))
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition(", ")[2] for line in lines] == ["25% over", "51% over"]
    with watching(2, quiet=True) as watch:
        watch(0, progress(100, 5))
    assert capsys.readouterr().err == ""
