"""What is made of the stub's rows beside what a load generator says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from benchmarks.errors import BenchmarkError
from benchmarks.load import added
from benchmarks.load.added import seen_of
from benchmarks.load.clients import Said

from penstock.core.record import Record
from penstock.lab.journal.rerun import command_line

if TYPE_CHECKING:
    from pathlib import Path

SAID = Said(0.101, 0.102, 0.01, 100)
S = 1_000_000_000


def row(received: float, *, whole: bool = True) -> dict[str, object]:
    """An answer of 10 tokens from 0.1 s to 0.99 s after its receipt."""
    first, last = received + 0.1, received + 0.99
    times = {"received": int(received * S), "first": int(first * S), "last": int(last * S)}
    return {"id": None, "tokens": 10, "whole": whole, **times}


def test_given_requests_on_time_when_seen_then_the_rate_of_tokens_leaves_out_the_beginning_and_the_end() -> None:
    seen = seen_of(SAID, [row(i / 20) for i in range(100)], 100, 20.0)
    assert seen.tokens_per_s == pytest.approx(200.0, rel=0.02)  # 20 requests/s of 10 tokens, not 1000 tokens in 5.95 s
    assert seen.streams == 20
    assert seen.stub_ttft_p99 == pytest.approx(0.1)
    assert seen.arrival_delay_p99 == pytest.approx(0.0, abs=1e-6)


def test_given_a_client_that_falls_behind_when_seen_then_the_delay_of_its_requests_says_so() -> None:
    seen = seen_of(SAID, [row(i / 10) for i in range(101)], 101, 20.0)
    assert seen.arrival_delay_p99 == pytest.approx(99 / 10 - 99 / 20, rel=0.01)


def test_given_a_trial_request_and_a_broken_one_when_seen_then_only_the_load_counts() -> None:
    rows = [row(0.0), row(7.0, whole=False), *(row(10 + i / 20) for i in range(20))]
    seen = seen_of(SAID, rows, 20, 20.0)
    assert seen.requests == 20
    assert seen.arrival_delay_p99 == pytest.approx(0.0, abs=1e-6)


def test_given_nothing_whole_when_seen_then_it_says_so() -> None:
    with pytest.raises(BenchmarkError, match="nothing whole"):
        seen_of(SAID, [row(0.0, whole=False)], 1, 1.0)


def test_given_a_measurement_when_kept_then_its_record_can_be_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks.load", "added", "--rates", "20", "--out", str(tmp_path)])
    monkeypatch.setattr(added, "_once", lambda *_: seen_of(SAID, [row(i / 20) for i in range(100)], 100, 20.0))
    added.measure(["penstock"], [20.0], rounds=1, seconds=5.0, tokens=10, venvs=tmp_path, tokenizer=tmp_path,
                  out=tmp_path)  # fmt: skip
    record = Record.load(tmp_path / "load-penstock-20.json")
    assert command_line(record)[1:] == ("-m", "benchmarks.load", "added", "--rates", "20")
    assert record.packages
