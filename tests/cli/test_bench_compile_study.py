"""`penstock bench compile-study`, from the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from support.tiny_models import write_tiny_variant

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.slow
def test_given_a_tiny_model_when_compiled_then_it_chooses_the_same_tokens_and_the_record_tells_what_it_took(
    penstock: Callable[..., Any], alone: Path, tmp_path: Path
) -> None:
    model = write_tiny_variant(tmp_path / "model", "llama", num_hidden_layers=1)
    ran = penstock(
        "bench", "compile-study", "--model", model, "--modes", "default,reduce-overhead", "--prefill", "8",
        "--batches", "2", "--context", "8", "--steps", "2", "--rounds", "2", "--passes", "1", "--threads", "1",
        "--dtype", "float32", "--json", "--page", tmp_path / "page.html", "--out", tmp_path / "kept",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    modes = {each["mode"]: each for each in record["workload"]["parameters"]["modes"]}
    assert "needs CUDA graphs" in modes["reduce-overhead"]["why_not"]
    compiled = modes["default"]
    assert compiled["tokens_as_eager"] == 1.0
    assert [each["point"] for each in compiled["compilations"]] == ["prefill_8", "decode_b2"]
    assert not any(each["failure"] for each in compiled["compilations"])
    assert "plan." in compiled["compilations"][1]["reason"]
    assert compiled["graph_breaks"] == []
    metrics = {each["name"]: each["mean"] for each in record["metrics"]}
    assert metrics["compile_cold_default"] > 1, "a C++ compiler ran"
    assert metrics["memory_peak_default"] > metrics["memory_peak_eager"] * 0.5
    assert "default: pass 1 of 1, the first time of decode, batch of 2" in ran.err
    assert "<script" in (tmp_path / "page.html").read_text()
    assert len(list((tmp_path / "kept").glob("compile-study-*.json"))) == 1


def test_given_mistakes_when_studied_then_each_is_explained(
    penstock: Callable[..., Any], alone: Path, tmp_path: Path
) -> None:
    model = write_tiny_variant(tmp_path / "model", "llama", num_hidden_layers=1)
    for options, code, words in (
        (("--modes", "defualt"), 2, "did you mean"),
        (("--batches", "none"), 2, "--batches is whole numbers"),
        (("--prefill", "1"), 2, "A prompt of one token"),
        (("--rounds", "1"), 2, "--rounds is from 2"),
        (("--limit", "inf"), 2, "--limit is from 1"),
        (("--context", "4096"), 9, "The longest point has 4128 tokens"),
        (("--modes", "cuda-graphs", "--prefill", "8", "--context", "8"), 9, "nothing to study beside eager"),
    ):
        ran = penstock("bench", "compile-study", "--model", model, *options)
        assert (ran.code, words.lower() in ran.err.lower()) == (code, True), (options, ran.err)
