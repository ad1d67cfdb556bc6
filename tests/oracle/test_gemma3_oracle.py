"""The catalogue's Gemma against transformers, which is given the same dequantized weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from penstock.engine.types import SamplingParams
from penstock.models.load import load
from penstock.models.tokenizer import Tokenizer
from support.runners import generate, make_requests, make_runner

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.oracle, pytest.mark.slow]

WIKITEXT = Path(__file__).parents[3] / "shared/data/eval/wikitext2_test.txt"
WINDOW_TOKENS = 900  # more than the model's window of 512
MODULES = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
    "attn_norm": "input_layernorm", "attn_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm", "mlp_post_norm": "post_feedforward_layernorm",
}  # fmt: skip


@pytest.fixture(scope="module")
def path(stored: Callable[[str], Path]) -> Path:
    return stored("gemma3-270m")


@pytest.fixture(scope="module")
def reference(path: Path) -> Any:
    """transformers' Gemma 3 in float32, its sizes written out as the model's makers publish them."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=262_144,
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        query_pre_attn_scalar=256,
        sliding_window=512,
        max_position_embeddings=32_768,
        rms_norm_eps=1e-6,
    )
    model = Gemma3ForCausalLM(config).eval()
    spec, weights = load(path)
    names = {"embed.weight": "model.embed_tokens.weight", "final_norm.weight": "model.norm.weight"} | {
        f"layers.{i}.{ours}.weight": f"model.layers.{i}.{theirs}.weight"
        for i in range(spec.n_layers)
        for ours, theirs in MODULES.items()
    }
    with weights, torch.no_grad():
        state = {names[name]: torch.from_numpy(weights.read(name)) for name in weights.names()}
        state = {name: values - 1 if values.ndim == 1 else values for name, values in state.items()}
        found = model.load_state_dict(state, strict=False)
    assert found.missing_keys in ([], ["lm_head.weight"])
    assert not found.unexpected_keys
    return model


@pytest.fixture(scope="module")
def windows(path: Path) -> list[list[int]]:
    if not WIKITEXT.exists():
        pytest.skip("the data folder beside the repository has no WikiText-2")
    tokenizer = Tokenizer.load(path)
    ids = tokenizer.encode(WIKITEXT.read_text(encoding="utf-8")[:20_000], add_special_tokens=False)
    assert tokenizer.bos_token_id is not None
    return [[tokenizer.bos_token_id, *ids[i * WINDOW_TOKENS : (i + 1) * WINDOW_TOKENS]] for i in range(2)]


@pytest.mark.parametrize("kind", ["native-float32", "torch"])
def test_greedy_text_past_the_window_equals_transformers(
    kind: str, path: Path, reference: Any, windows: list[list[int]]
) -> None:
    prompts = [windows[0][:600], windows[1][:490], windows[1][:7], windows[0][:60]]
    runner = make_runner(path, kind, threads=2, max_model_len=1024)
    requests = make_requests(prompts, 32)
    generate(runner, requests, 32, chunk=96)
    runner.shutdown()
    # If transformers, given a text so far, always chooses the token that follows in it, it would write that text.
    for request in requests:
        whole = torch.tensor([request.prompt + request.output])
        with torch.inference_mode():
            chosen = reference(whole).logits[0, len(request.prompt) - 1 : -1].argmax(-1)
        assert request.output == chosen.tolist()


@pytest.fixture(scope="module")
def reference_perplexity(reference: Any, windows: list[list[int]]) -> float:
    losses = []
    for window in windows:
        ids = torch.tensor([window])
        with torch.inference_mode():
            losses.append(float(reference(ids, labels=ids).loss))
    return math.exp(sum(losses) / len(losses))


# Keys and values are in half floats but for the float32 runners.
@pytest.mark.parametrize(
    ("kind", "fields", "allowed"),
    [
        ("native-float32", {}, 5e-4),
        ("native-int8", {}, 1e-2),
        ("torch", {}, 5e-4),
        ("torch", {"dtype": "bfloat16"}, 3e-2),
    ],
)
def test_perplexity_stays_near_transformers_in_float32(
    kind: str, fields: dict[str, str], allowed: float, path: Path, windows: list[list[int]], reference_perplexity: float
) -> None:
    runner = make_runner(path, kind, threads=2, max_model_len=1024, **fields)
    requests = make_requests(windows, 1, params=SamplingParams(temperature=0, prompt_logprobs=0))
    generate(runner, requests, 1, chunk=192)
    runner.shutdown()
    scores = [p.chosen.logprob for r in requests for result in r.results for p in result.prompt_logprobs]
    assert len(scores) == sum(len(window) - 1 for window in windows)
    perplexity = math.exp(-sum(scores) / len(scores))
    print(f"{kind} {fields}: {perplexity:.4f}; transformers in float32: {reference_perplexity:.4f}")
    assert abs(perplexity / reference_perplexity - 1) < allowed
