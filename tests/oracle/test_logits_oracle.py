"""Both runners against transformers: logits of every architecture, and the default model's text and perplexity."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from penstock.engine.types import SamplingParams
from penstock.models.load import load
from support.gguf_files import encode_gguf, gguf_metadata, gguf_tensors, tensor, write_gguf_from_hf
from support.runners import generate, logits_of, make_requests, make_runner, native_logits_of, random_prompts
from support.tiny_models import VARIANTS, write_tiny_variant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

pytestmark = pytest.mark.oracle

WIKITEXT = Path(__file__).parents[3] / "shared/data/eval/wikitext2_test.txt"
TOLERANCE = 1e-4
NATIVE_TYPES = [
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _few_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


LOGITS_OF = {"native": native_logits_of, "torch": logits_of}
GGUF_VARIANTS = ["llama", "llama-tied", "llama-linear-rope", "qwen2", "qwen3", "gemma3-linear-rope"]
both = pytest.mark.parametrize("runner", LOGITS_OF)


def random_tokens(count: int, seed: int = 0) -> list[int]:
    return random_prompts(count, seed=seed)[0]


def reference_logits(directory: Path, tokens: list[int]) -> Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0]


@both
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers_whole_and_in_chunks(variant: str, runner: str, tmp_path: Path) -> None:
    directory = write_tiny_variant(tmp_path, variant)
    tokens = random_tokens(120)
    expected = reference_logits(directory, tokens)
    assert expected.std() > 0.3  # else a wrong norm or position could hide in the tolerance
    for chunks in ((), (1,) * 50, (17, 1, 1, 40, 1)):
        found = LOGITS_OF[runner](directory, tokens, chunks)
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0, msg=f"chunks {chunks}")


@both
@pytest.mark.parametrize("variant", GGUF_VARIANTS)
def test_logits_of_a_gguf_file_equal_transformers(variant: str, runner: str, tmp_path: Path) -> None:
    directory = write_tiny_variant(tmp_path, variant)
    architecture, _, way = variant.partition("-")
    linear = {f"{architecture}__rope__scaling__type": "linear", f"{architecture}__rope__scaling__factor": 4.0}
    extra = linear if way == "linear-rope" else {}
    file = write_gguf_from_hf(directory, tmp_path / "tiny.gguf", **extra)
    tokens = random_tokens(100, seed=1)
    expected = reference_logits(directory, tokens)
    torch.testing.assert_close(LOGITS_OF[runner](file, tokens, (30, 1)), expected, atol=TOLERANCE, rtol=0)


@both
def test_rope_factors_stored_in_a_gguf_file_equal_llama3_scaling(runner: str, tmp_path: Path) -> None:
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    directory = write_tiny_variant(tmp_path, "llama3-rope")
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](AutoConfig.from_pretrained(directory), "cpu")
    plain = 1 / 10000.0 ** (torch.arange(0, 16, 2) / 16)
    spec, weights = load(directory)
    with weights:
        tensors = gguf_tensors(spec, {name: weights.read(name) for name in weights.names()})
    tensors.append(tensor("rope_freqs.weight", (plain / scaled).numpy()))
    file = tmp_path / "tiny.gguf"
    file.write_bytes(encode_gguf(gguf_metadata(spec), tensors))
    tokens = random_tokens(100, seed=1)
    expected = reference_logits(directory, tokens)
    torch.testing.assert_close(LOGITS_OF[runner](file, tokens, (30, 1)), expected, atol=TOLERANCE, rtol=0)


@both
@pytest.mark.parametrize("variant", ["mistral", "gemma3"])
def test_a_sliding_window_holds_over_a_context_many_times_its_length(variant: str, runner: str, tmp_path: Path) -> None:
    directory = write_tiny_variant(tmp_path, variant, max_position_embeddings=1024)
    tokens = random_tokens(900, seed=2)
    expected = reference_logits(directory, tokens)
    for chunks in ((), (600,), (890, 1, 1, 1), (20, 500, 300)):
        found = LOGITS_OF[runner](directory, tokens, chunks)
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0, msg=f"chunks {chunks}")


@pytest.mark.parametrize("dtype", NATIVE_TYPES)
@pytest.mark.parametrize("variant", ["llama", "qwen2-tied"])
def test_the_native_runner_reads_each_type_of_a_gguf_file_as_torch_does(
    variant: str, dtype: str, tmp_path: Path
) -> None:
    """Weights as they are in the one, dequantized to float32 in the other; the product's activations in float32."""
    hf = write_tiny_variant(tmp_path, variant, hidden_size=256, intermediate_size=512)
    file = write_gguf_from_hf(hf, tmp_path / "tiny.gguf", dtype)
    tokens = random_tokens(70, seed=3)
    expected = logits_of(file, tokens)
    assert expected.std() > 0.3
    for chunks in ((), (3, 1, 40, 2)):
        found = native_logits_of(file, tokens, chunks)
        torch.testing.assert_close(found, expected, atol=1e-3 * float(expected.std()), rtol=1e-3)


@pytest.mark.parametrize("dtype", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_int8_activations_stay_near_float32(dtype: str, tmp_path: Path) -> None:
    file = write_gguf_from_hf(write_tiny_variant(tmp_path, "llama"), tmp_path / "tiny.gguf", dtype)
    tokens = random_tokens(70, seed=3)
    expected = native_logits_of(file, tokens)
    found = native_logits_of(file, tokens, kind="native-int8")
    error = float((found - expected).norm() / expected.norm())
    print(f"{dtype}: int8 differs by {error:.4f}")
    assert 0 < error < 0.05
    for chunks in ((1,) * 20, (3, 7, 2, 11)):
        assert torch.equal(native_logits_of(file, tokens, chunks, kind="native-int8", threads=2), found)


@pytest.fixture(scope="module")
def reference(smollm2_path: Path) -> Any:
    """transformers' Llama in float32, filled with the same dequantized weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    spec, weights = load(smollm2_path)
    config = LlamaConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.ffn_size,
        num_hidden_layers=spec.n_layers,
        num_attention_heads=spec.n_heads,
        num_key_value_heads=spec.n_kv_heads,
        max_position_embeddings=spec.context_length,
        rms_norm_eps=spec.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta},
        tie_word_embeddings=spec.tied_embeddings,
    )
    model = LlamaForCausalLM(config).eval()
    names = {
        "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
        "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
        "attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm",
    }  # fmt: skip
    with weights, torch.no_grad():
        state = {"model.embed_tokens.weight": weights.read("embed.weight")}
        state["model.norm.weight"] = weights.read("final_norm.weight")
        for i in range(spec.n_layers):
            for ours, theirs in names.items():
                state[f"model.layers.{i}.{theirs}.weight"] = weights.read(f"layers.{i}.{ours}.weight")
        missing = model.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=False)
    assert missing.missing_keys in ([], ["lm_head.weight"])
    assert not missing.unexpected_keys
    return model


@pytest.fixture(scope="module")
def wikitext(smollm2_path: Path) -> list[int]:
    """The first tokens of WikiText-2's test set."""
    from penstock.models.tokenizer import Tokenizer

    if not WIKITEXT.exists():
        pytest.skip("the data folder beside the repository has no WikiText-2")
    text = WIKITEXT.read_text(encoding="utf-8")[:40_000]
    return Tokenizer.load(smollm2_path).encode(text, add_special_tokens=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["native-float32", "torch"])
def test_smollm2_greedy_text_equals_transformers(
    kind: str, smollm2_path: Path, reference: Any, wikitext: list[int]
) -> None:
    prompts = [wikitext[i * 200 : i * 200 + 5 + i] for i in range(32)]
    runner = make_runner(smollm2_path, kind, threads=2)
    requests = make_requests(prompts, 64)
    generate(runner, requests, 64, chunk=16)
    # If transformers, given a text so far, always chooses the token that follows in it, it would write that text.
    for request in requests:
        whole = torch.tensor([request.prompt + request.output])
        with torch.inference_mode():
            chosen = reference(whole).logits[0, len(request.prompt) - 1 : -1].argmax(-1)
        assert request.output == chosen.tolist()


@pytest.fixture(scope="module")
def windows(wikitext: list[int]) -> list[list[int]]:
    found = [wikitext[i * 512 : (i + 1) * 512] for i in range(8)]
    assert all(len(window) == 512 for window in found)
    return found


@pytest.fixture(scope="module")
def reference_perplexity(reference: Any, windows: list[list[int]]) -> float:
    losses = []
    for window in windows:
        ids = torch.tensor([window])
        with torch.inference_mode():
            losses.append(float(reference(ids, labels=ids).loss))
    return math.exp(sum(losses) / len(losses))


def perplexity_of(path: Path, windows: list[list[int]], kind: str, **fields: Any) -> float:
    runner = make_runner(path, kind, threads=2, max_model_len=520, **fields)
    requests = make_requests(windows, 1, params=SamplingParams(temperature=0, prompt_logprobs=0))
    generate(runner, requests, 1, chunk=192)
    runner.shutdown()
    scores = [p.chosen.logprob for r in requests for result in r.results for p in result.prompt_logprobs]
    assert len(scores) == sum(len(window) - 1 for window in windows)
    return math.exp(-sum(scores) / len(scores))


@pytest.fixture(scope="module")
def native_perplexity(smollm2_path: Path, windows: list[list[int]]) -> float:
    """In float32."""
    return perplexity_of(smollm2_path, windows, "native-float32")


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "allowed"), [("float32", 1e-3), ("bfloat16", 1e-2)])
def test_smollm2_perplexity_of_torch_equals_transformers_in_float32(
    dtype: str, allowed: float, smollm2_path: Path, windows: list[list[int]], reference_perplexity: float
) -> None:
    perplexity = perplexity_of(smollm2_path, windows, "torch", dtype=dtype)
    print(f"perplexity in {dtype}: {perplexity:.4f}; transformers in float32: {reference_perplexity:.4f}")
    assert abs(perplexity / reference_perplexity - 1) < allowed


@pytest.mark.slow
def test_smollm2_perplexity_of_the_native_runner_equals_transformers_in_float32(
    native_perplexity: float, reference_perplexity: float
) -> None:
    print(f"native perplexity in float32: {native_perplexity:.4f}; transformers': {reference_perplexity:.4f}")
    assert abs(native_perplexity / reference_perplexity - 1) < 5e-4


@pytest.mark.slow
@pytest.mark.parametrize(("kv_cache_dtype", "allowed"), [("float16", 5e-4), ("bfloat16", 5e-4), ("int8", 2e-3)])
def test_smollm2_perplexity_with_smaller_keys_and_values_stays_near_float32(
    kv_cache_dtype: str, allowed: float, smollm2_path: Path, windows: list[list[int]], native_perplexity: float
) -> None:
    perplexity = perplexity_of(smollm2_path, windows, "native-float32", kv_cache_dtype=kv_cache_dtype)
    print(f"native perplexity with KV in {kv_cache_dtype}: {perplexity:.4f}; in float32: {native_perplexity:.4f}")
    assert abs(perplexity / native_perplexity - 1) < allowed


@pytest.mark.slow
def test_smollm2_perplexity_with_int8_products_is_within_half_a_percent_of_float32(
    smollm2_path: Path, windows: list[list[int]], native_perplexity: float
) -> None:
    perplexity = perplexity_of(smollm2_path, windows, "native-int8")
    print(f"native perplexity with int8: {perplexity:.4f}; in float32: {native_perplexity:.4f}")
    assert abs(perplexity / native_perplexity - 1) < 5e-3
