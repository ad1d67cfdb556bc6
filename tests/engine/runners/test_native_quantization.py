"""Weights that the native runner rounds to int8 or int4 as it loads a model stored in floats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from penstock.core.errors import ConfigError, ModelFileError
from penstock.engine.runners import native
from penstock.engine.types import SampleSpec, SamplingParams, SequenceStep, StepBatch
from support.gguf_files import write_gguf_from_hf
from support.runners import GREEDY, generate, make_requests, make_runner, native_logits_of, new_runner, random_prompts
from support.tiny_models import VARIANTS, write_tiny_hf, write_tiny_variant

if TYPE_CHECKING:
    from pathlib import Path

QUANTIZATIONS = ["int8", "int4"]
both = pytest.mark.parametrize("quantization", QUANTIZATIONS)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_variant(tmp_path_factory.mktemp("tiny"), "llama")


def error_of(path: Path, **fields: Any) -> float:
    """How far logits are from those of the weights as stored, activations in float32 in both: relative, root of mean
    squares."""
    tokens = random_prompts(70, seed=3)[0]
    expected = native_logits_of(path, tokens)
    return float((native_logits_of(path, tokens, **fields) - expected).norm() / expected.norm())


# A normal weight errs by 0.6 % in int8 (a step of a 127th of some 2.2 deviations, over the root of 12) and by 7 % in
# int4. The tiny models' weights are so large that three layers make about six times that of it.
@pytest.mark.parametrize(("quantization", "least", "most"), [("int8", 0.005, 0.06), ("int4", 0.05, 0.6)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_stay_near_those_of_the_weights_as_stored(
    variant: str, quantization: str, least: float, most: float, tmp_path: Path
) -> None:
    error = error_of(write_tiny_variant(tmp_path, variant), quantization=quantization)
    print(f"{variant}: {quantization} differs by {error:.4f}")
    assert least < error < most


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_rounded_as_well(dtype: str, tmp_path: Path) -> None:
    assert 0.005 < error_of(write_tiny_hf(tmp_path, dtype=dtype), quantization="int8") < 0.06


def test_a_gguf_file_of_floats_is_rounded_as_safetensors_are(tiny: Path, tmp_path: Path) -> None:
    tokens = random_prompts(40)[0]
    file = write_gguf_from_hf(tiny, tmp_path / "tiny.gguf", "F32")
    fields = {"kind": "native-int8", "quantization": "int4"}
    assert torch.equal(native_logits_of(file, tokens, **fields), native_logits_of(tiny, tokens, **fields))


@both
@pytest.mark.parametrize("variant", VARIANTS)
def test_chunks_and_threads_change_no_bit(variant: str, quantization: str, tmp_path: Path) -> None:
    path, tokens = write_tiny_variant(tmp_path, variant), random_prompts(60)[0]
    found = native_logits_of(path, tokens, kind="native-int8", quantization=quantization)
    for chunks, threads in (((1,) * 20, 1), ((3, 7, 2, 11), 2)):
        again = native_logits_of(path, tokens, chunks, kind="native-int8", quantization=quantization, threads=threads)
        assert torch.equal(again, found)


@both
def test_a_batch_changes_no_bit_of_what_is_told_of_a_request(tiny: Path, quantization: str) -> None:
    params = SamplingParams(temperature=1.0, top_p=0.9, logprobs=3, prompt_logprobs=2)
    prompts = random_prompts(3, 17, 9, 30, 1)
    found = []
    for at_once in (1, len(prompts)):
        runner = make_runner(tiny, "native-int8", quantization=quantization)
        requests = make_requests(prompts, 8, params=params)
        for first in range(0, len(prompts), at_once):
            generate(runner, requests[first : first + at_once], 8)
        found.append([r.results for r in requests])
    assert found[0] == found[1]


def test_the_runner_tells_what_it_made_of_the_weights_and_what_they_take(tiny: Path) -> None:
    taken = {}
    for quantization in (None, *QUANTIZATIONS):
        runner = make_runner(tiny, "native-int8", quantization=quantization)
        described = runner.describe()
        assert described.get("quantization") == quantization
        assert described["dtype"] == ("int8" if quantization else "float32")
        taken[quantization] = runner.kv_capacity().weight_bytes
    assert taken["int8"] == pytest.approx(taken[None] * 8.5 / 32, rel=0.01)
    assert 5 / 8.5 < taken["int4"] / taken["int8"] < 0.8  # vocabulary and head keep eight bits


@both
def test_the_memory_asked_for_beforehand_is_that_of_the_rounded_weights(
    tiny: Path, quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = make_runner(tiny, "native-int8", quantization=quantization).kv_capacity().weight_bytes
    monkeypatch.setattr(native, "available_memory", lambda: needed)
    new_runner(tiny, "native-int8", quantization=quantization).load()
    monkeypatch.setattr(native, "available_memory", lambda: needed - 1)
    with pytest.raises(ConfigError, match=r"take .* of memory"):
        new_runner(tiny, "native-int8", quantization=quantization).load()


@both
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e30])
def test_a_weight_that_cannot_be_rounded_is_told_by_its_tensor(bad: float, quantization: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    directory = write_tiny_variant(tmp_path, "llama")
    file = directory / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][17, 5] = bad
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ModelFileError, match=r"layers\.1\.up\.weight has weights that are NaN"):
        new_runner(directory, "native-int8", quantization=quantization).load()


@pytest.mark.parametrize("types", [lambda _: "Q8_0", lambda name: "Q4_1" if "layers.1.down" in name else "F32"])
def test_weights_that_are_quantized_already_are_refused_before_any_is_packed(types: Any, tmp_path: Path) -> None:
    file = write_gguf_from_hf(write_tiny_variant(tmp_path, "llama"), tmp_path / "tiny.gguf", types)
    with pytest.raises(ConfigError, match=r"quantized already, as Q.*without --quantization"):
        new_runner(file, "native-int8", quantization="int8").load()


def test_an_unknown_quantization_is_refused(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="Unknown quantization 'fp8': int8 or int4"):
        new_runner(tiny, "native-int8", quantization="fp8").load()


def test_the_torch_runner_refuses_and_names_the_runner_that_rounds(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="--runner native") as caught:
        new_runner(tiny, "torch", quantization="int8")
    assert caught.value.param == "quantization"


@both
def test_norms_stay_as_stored_however_large(quantization: str, tmp_path: Path) -> None:
    """A norm's weight that no half float holds scales its row by itself."""
    from safetensors.torch import load_file, save_file

    directory = write_tiny_variant(tmp_path, "llama")
    file = directory / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"] *= 1e6
    save_file(tensors, file, {"format": "pt"})
    runner = make_runner(directory, "native-int8", quantization=quantization)
    step = SequenceStep("a", [5, 6, 7], 0, (3,), SampleSpec(GREEDY, 0, [5, 6, 7], [], ()))
    [output] = runner.execute(StepBatch([step])).sequences
    assert output.error is None
