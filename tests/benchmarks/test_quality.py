"""What the benchmark says of quality, on a tiny model and on distributions worked out by hand."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

import numpy as np
import pytest
from benchmarks.errors import BenchmarkError

from benchmarks import quality, report
from support.gguf_files import tiny_spec, write_tiny_gguf

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.gguf"
    write_tiny_gguf(file, types="Q8_0", spec=tiny_spec(context_length=512))
    return file


def test_sums_are_those_of_the_definitions() -> None:
    own = np.log([[0.25, 0.75], [0.9, 0.1], [0.5, 0.5]])
    reference = np.log([[0.5, 0.5], [0.2, 0.8], [0.5, 0.5]])
    nll, reference_nll, divergence, agreement = quality.compare(own, reference, [1, 0])
    assert nll == pytest.approx(-log(0.75) - log(0.9))
    assert reference_nll == pytest.approx(-log(0.5) - log(0.2))
    first, second = 0.5 * log(0.5 / 0.25) + 0.5 * log(0.5 / 0.75), 0.2 * log(0.2 / 0.9) + 0.8 * log(0.8 / 0.1)
    assert divergence == pytest.approx(first + second)
    assert agreement == 1  # of equal ones the first counts


def test_each_way_gets_a_record_and_the_summary_a_row(gguf: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    windows = tuple(tuple(rng.integers(0, 48, quality.TOKENS).tolist()) for _ in range(2))
    records = list(quality.measure(gguf, quality.Text("text.txt", "0" * 64, windows), 1))
    works = [record.workload.parameters for record in records]
    assert [(work["products"], work["kv"], work["reference"].split()[0]) for work in works] == [
        ("float32", "float16", "native"), ("float32", "int8", "native"), ("int8", "float16", "native"),
        ("int8", "int8", "native"), ("float32", "float32", "torch"),
    ]  # fmt: skip
    halves, int8_kv, int8, _, exact = records
    assert 0 < halves.metric("divergence").mean < int8_kv.metric("divergence").mean
    assert 0 < halves.metric("divergence").mean < int8.metric("divergence").mean < 1
    assert 0.8 < int8.metric("agreement").mean <= halves.metric("agreement").mean <= 1
    assert abs(exact.metric("nll_difference").mean) < 1e-4
    # What a runner reports of a text's tokens, and what follows from all of its scores.
    assert exact.metric("nll").mean == pytest.approx(int8.metric("reference_nll").mean, abs=1e-5)

    for work, record in zip(works, records, strict=True):
        record.save(tmp_path / "records" / f"quality-{work['products']}-kv-{work['kv']}.json")
    report.write(tmp_path / "records")
    summary = (tmp_path / "records" / "SUMMARY.md").read_text()
    assert "## What rounding costs" in summary
    assert "| int8 | float16 | native float32 |" in summary
    assert "| float32 | float32 | torch float32 |" in summary
    assert "2 windows of 512 tokens of text.txt, tiny.gguf." in summary


def test_a_text_that_is_too_short_or_is_not_there_is_refused(gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="can't be read"):
        quality.Text.read(tmp_path / "nothing.txt", gguf, 1)
    short = tmp_path / "short.txt"
    short.write_text("a")
    with pytest.raises(BenchmarkError, match="windows take 1024"):
        quality.Text.read(short, gguf, 2)
