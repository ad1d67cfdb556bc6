"""A report on many requests: the benchmark's own code on fewer, and memory that doesn't grow with pieces of text."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest

from benchmarks import load_report
from penstock.lab.bench import gaps
from penstock.lab.bench.observations import Observations
from penstock.lab.bench.records import metrics_of

if TYPE_CHECKING:
    from pathlib import Path


def test_the_benchmark_measures_a_report_on_as_many_requests_as_it_says() -> None:
    record = load_report.measure(requests=500, pieces=20, repeats=1, seed=3)
    assert record.workload.parameters["file_bytes"] > 500 * 20 * 8
    assert 0.1 < record.metric("report").mean < 60
    assert 30e6 < record.metric("report_rss").mean < 1e9


def test_observations_that_are_made_look_like_a_run() -> None:
    metrics = {metric.name: metric for metric in metrics_of([load_report.made(5000, 20, seed=4)])}
    assert metrics["ttft"].p50 == pytest.approx(0.2, rel=0.05)
    assert metrics["chunk_gap"].p50 == pytest.approx(0.02, rel=0.01)
    assert metrics["chunk_gap"].n == 5000 * 19


def test_memory_does_not_grow_with_the_pieces_of_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaps, "_BLOCK", 1 << 14)

    def peak(pieces: int) -> int:
        file = tmp_path / f"{pieces}.npz"
        load_report.made(2000, pieces, seed=5).save(file)
        tracemalloc.start()
        try:
            metrics_of([Observations.load(file)])
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(50), peak(1000)
    assert many - few < 0.1 * 2000 * 950 * 4  # bytes of the gaps alone
