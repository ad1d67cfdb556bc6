"""bfloat16 products of the native runner: which weights they are for, how exact, and the same bits in any company."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from penstock import _native
from penstock.core.errors import ConfigError
from penstock.engine.runners.base import RunnerConfig
from penstock.engine.runners.native import NativeRunner
from penstock.engine.types import SamplingParams
from support.runners import generate, make_requests, make_runner, native_logits_of, random_prompts, write_model
from support.tiny_models import write_tiny_variant

if TYPE_CHECKING:
    from pathlib import Path

KIND = "native-float32"  # whose dtype each test overrides
PROMPTS = random_prompts(3, 17, 40, 30, 1, 12)
SCORED = SamplingParams(temperature=1.0, top_p=0.9, logprobs=3, prompt_logprobs=2)
needs_bfloat16 = pytest.mark.skipif(not _native.has_bfloat16(), reason="this processor has no bfloat16 products")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_variant(tmp_path_factory.mktemp("tiny"), "llama", dtype="bfloat16")


def told(runner: NativeRunner, *, batch: int, chunk: int) -> list[object]:
    """The log probabilities of all prompts and of the tokens drawn after them, so many requests at a time."""
    requests = make_requests(PROMPTS, 8, params=SCORED)
    for first in range(0, len(requests), batch):
        generate(runner, requests[first : first + batch], 8, chunk=chunk)
    results = [result for request in requests for result in request.results]
    prompts = [position for result in results for position in result.prompt_logprobs]
    return [prompts, [(r.token_id, r.logprobs) for r in results if r.token_id is not None]]


@needs_bfloat16
def test_company_chunks_and_threads_change_no_bit(tiny: Path) -> None:
    expected = told(make_runner(tiny, KIND, dtype="bfloat16"), batch=1, chunk=100)
    assert told(make_runner(tiny, KIND, dtype="bfloat16"), batch=3, chunk=7) == expected
    assert told(make_runner(tiny, KIND, dtype="bfloat16", threads=2), batch=6, chunk=19) == expected


@needs_bfloat16
def test_scores_of_bfloat16_weights_are_near_those_of_float32_and_not_the_same(tiny: Path) -> None:
    [prompt] = random_prompts(90)
    exact, rounded = (native_logits_of(tiny, prompt, kind=KIND, dtype=dtype) for dtype in ("float32", "bfloat16"))
    error = ((rounded - exact).norm() / exact.norm()).item()
    assert 1e-4 < error < 1e-2


@needs_bfloat16
def test_other_weights_keep_their_products(tmp_path: Path) -> None:
    [prompt] = random_prompts(40)
    quantized = write_model(tmp_path / "quantized", "llama", "native-int8")
    wide = write_tiny_variant(tmp_path / "wide", "llama")
    for model, dtype, products in ((quantized, "auto", "int8"), (wide, "float32", "float32")):
        fields = {"kind": KIND, "kv_cache_dtype": "float32"}
        assert torch.equal(
            native_logits_of(model, prompt, dtype="bfloat16", **fields),
            native_logits_of(model, prompt, dtype=dtype, **fields),
        )
        assert make_runner(model, KIND, dtype="bfloat16").describe()["dtype"] == products


@needs_bfloat16
def test_the_runner_says_so(tiny: Path) -> None:
    described = make_runner(tiny, KIND, dtype="bfloat16").describe()
    assert (described["dtype"], described["attention"]) == ("bfloat16", "paged, bfloat16 KV")
    assert make_runner(tiny, KIND, dtype="auto").describe()["dtype"] == "float32"


def test_instructions_without_it_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_CPU_PATH", "scalar")
    with pytest.raises(ConfigError, match="path scalar lacks: choose auto or float32"):
        NativeRunner(RunnerConfig(model_path="unused", dtype="bfloat16"))
