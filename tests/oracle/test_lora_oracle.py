"""Adapters against PEFT and transformers: logits with and without merging, of both runners and both kinds of file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from support.gguf_files import write_gguf_from_hf
from support.runners import logits_of, native_logits_of, random_prompts
from support.tiny_models import write_tiny_variant

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

pytestmark = [
    pytest.mark.oracle,
    # PEFT asks transformers by a name that the installed version is about to drop.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

LOGITS_OF = {"native": native_logits_of, "torch": logits_of}
TOLERANCE = 2e-4
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# What PEFT is asked for: each scale and rank comes about in a way of its own.
CONFIGS: dict[str, dict[str, Any]] = {
    "all modules": {"r": 8, "lora_alpha": 16, "target_modules": ALL},
    "two modules, odd rank": {"r": 5, "lora_alpha": 3, "target_modules": ["q_proj", "v_proj"]},
    "rank-stabilized": {"r": 16, "lora_alpha": 8, "target_modules": "all-linear", "use_rslora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["k_proj", "up_proj", "down_proj"],
        "rank_pattern": {"up_proj": 9, r"^model.layers.1.self_attn.k_proj": 12},
        "alpha_pattern": {"layers.2.mlp.down_proj": 40, "up_proj": 2},
    },
    "some layers": {"r": 8, "lora_alpha": 16, "target_modules": ["o_proj", "gate_proj"], "layers_to_transform": [0, 2]},
}


def make_adapter(model: Path, directory: Path, seed: int = 0, **config: Any) -> tuple[Any, Path]:
    """PEFT's model with random weights in `A` and `B`, and where it saved them."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **config)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(directory)
    return adapted, directory


def peft_logits(model: Any, tokens: list[int]) -> Tensor:
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0]


@pytest.mark.parametrize("runner", LOGITS_OF)
@pytest.mark.parametrize("config", CONFIGS)
def test_logits_with_an_adapter_equal_those_of_peft_and_of_the_merged_model(
    runner: str, config: str, tmp_path: Path
) -> None:
    model = write_tiny_variant(tmp_path / "base", "llama")
    tokens = random_prompts(70, seed=4)[0]
    adapted, adapter = make_adapter(model, tmp_path / "adapter", **CONFIGS[config])
    expected = peft_logits(adapted, tokens)
    found = LOGITS_OF[runner](model, tokens, (30, 1, 1), adapter=adapter)
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=1e-3)
    without = LOGITS_OF[runner](model, tokens)
    assert (without - expected).abs().max() > 100 * TOLERANCE

    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    found = LOGITS_OF[runner](tmp_path / "merged", tokens)
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=1e-3)


@pytest.mark.parametrize("runner", LOGITS_OF)
@pytest.mark.parametrize("variant", ["llama-head-dim", "mistral", "qwen2-tied", "qwen3", "gemma3"])
def test_logits_with_an_adapter_equal_those_of_peft_for_each_architecture(
    runner: str, variant: str, tmp_path: Path
) -> None:
    model = write_tiny_variant(tmp_path / "base", variant)
    tokens = random_prompts(60, seed=5)[0]
    adapted, adapter = make_adapter(model, tmp_path / "adapter", **CONFIGS["all modules"])
    found = LOGITS_OF[runner](model, tokens, (1, 40), adapter=adapter)
    torch.testing.assert_close(found, peft_logits(adapted, tokens), atol=TOLERANCE, rtol=1e-3)


@pytest.mark.parametrize("runner", LOGITS_OF)
@pytest.mark.parametrize("variant", ["llama", "qwen2"])
def test_an_adapter_goes_with_a_gguf_base_as_with_the_checkpoint_it_was_made_of(
    runner: str, variant: str, tmp_path: Path
) -> None:
    """A GGUF file of the llama family has its queries' and keys' rows in another order."""
    model = write_tiny_variant(tmp_path / "base", variant)
    gguf = write_gguf_from_hf(model, tmp_path / "base.gguf")
    tokens = random_prompts(50, seed=6)[0]
    adapted, adapter = make_adapter(model, tmp_path / "adapter", **CONFIGS["all modules"])
    found = LOGITS_OF[runner](gguf, tokens, (20,), adapter=adapter)
    torch.testing.assert_close(found, peft_logits(adapted, tokens), atol=TOLERANCE, rtol=1e-3)


def test_an_adapter_rounded_to_int8_beside_int8_products_stays_near_its_floats(tmp_path: Path) -> None:
    model = write_tiny_variant(tmp_path / "base", "llama")
    gguf = write_gguf_from_hf(model, tmp_path / "base.gguf", "Q8_0")
    tokens = random_prompts(70, seed=7)[0]
    _, adapter = make_adapter(model, tmp_path / "adapter", **CONFIGS["all modules"])
    exact, rounded = (
        native_logits_of(gguf, tokens, kind=f"native-{kind}", adapter=adapter) for kind in ("float32", "int8")
    )
    error = float((rounded - exact).norm() / exact.norm())
    assert 0 < error < 0.06
