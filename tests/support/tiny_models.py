"""Tiny random models on disk, in the shape a Hugging Face checkpoint has; every architecture Penstock runs.

The weights are larger than a fresh initialisation's on purpose: with the usual standard deviation of 0.02
the logits hardly depend on positions, norms or masks, and a wrong one would pass.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

# hidden 64, 4 heads of 16 over 2 KV heads, 3 layers, context 256, unless a variant says otherwise
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA: dict[str, Any] = {
    "head_dim": 24,
    "sliding_window": 24,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}

# name -> (architecture, overrides of its config): what every runner must get right
VARIANTS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama3-rope": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "llama-linear-rope": ("llama", {"rope_parameters": LINEAR_ROPE}),
    "llama-head-dim": ("llama", {"head_dim": 24}),
    "mistral": ("mistral", {"sliding_window": 24}),
    "qwen2": ("qwen2", {}),
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "qwen3-mixed": (
        "qwen3",
        {"head_dim": 32, "use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1, "layer_types": None},
    ),
    "gemma3": ("gemma3_text", {**GEMMA, "query_pre_attn_scalar": 12}),
    "gemma3-linear-rope": (
        "gemma3_text",
        {
            **GEMMA,
            "query_pre_attn_scalar": 24,  # as GGUF files, which don't say it, mean it
            "tie_word_embeddings": False,
            "rope_parameters": {
                "full_attention": {**LINEAR_ROPE, "rope_theta": 100000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            },
        },
    ),
    "qwen3-tied": ("qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
}


def write_tiny_hf(
    directory: Path,
    architecture: str = "llama",
    *,
    dtype: str = "float32",
    sharded: bool = False,
    seed: int = 0,
    **overrides: Any,
) -> Path:
    """Write config.json, generation_config.json and safetensors of a random model; returns `directory`.

    `architecture` is "llama", "mistral", "qwen2", "qwen3" or "gemma3_text"; `overrides` are fields of its transformers
    config. `AutoModelForCausalLM.from_pretrained(directory)` loads the same weights.
    """
    import torch

    model = _random_model(architecture, seed, {**SIZES, **overrides}).to(getattr(torch, dtype))
    model.save_pretrained(directory, max_shard_size="100KB" if sharded else "5GB")
    return directory


def write_tiny_variant(directory: Path, variant: str, **overrides: Any) -> Path:
    """`write_tiny_hf` of one of `VARIANTS`."""
    architecture, fields = VARIANTS[variant]
    return write_tiny_hf(directory, architecture, **{**fields, **overrides})


def _random_model(architecture: str, seed: int, fields: dict[str, Any]) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **fields))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_random_tensor(name, parameter, generator, counts_from_one=architecture == "gemma3_text"))
    return model.eval()


def _random_tensor(name: str, like: torch.Tensor, generator: torch.Generator, *, counts_from_one: bool) -> torch.Tensor:
    """`counts_from_one`: norms multiply by one more than their weights."""
    import torch

    values = torch.randn(like.shape, generator=generator)
    if "norm" in name:
        return 0.2 * values if counts_from_one else 1 + 0.2 * values
    return values * (0.3 if name.endswith("bias") else 0.15)


def write_deeper(model: Path, directory: Path, layers: int) -> Path:
    """The model in safetensors at `model` with layers on top that add nothing to what it computes."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, directory)
    config = json.loads((directory / "config.json").read_text())
    tensors = load_file(directory / "model.safetensors")
    own = config["num_hidden_layers"]
    top = {name: tensor for name, tensor in tensors.items() if name.startswith(f"model.layers.{own - 1}.")}
    for layer in range(own, layers):
        for name, tensor in top.items():
            silent = "o_proj" in name or "down_proj" in name
            tensors[name.replace(f".{own - 1}.", f".{layer}.", 1)] = tensor * 0 if silent else tensor.clone()
    config["num_hidden_layers"] = layers
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory
