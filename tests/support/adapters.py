"""Adapters on disk, as PEFT saves them, with weights large enough that leaving one out shows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.models.lora import CONFIG, WEIGHTS
from support.safetensors_files import store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from penstock.models.spec import ModelSpec

ALL_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_PARENTS = {"q_proj": "self_attn", "k_proj": "self_attn", "v_proj": "self_attn", "o_proj": "self_attn"}


def adapter_tensors(
    spec: ModelSpec, rank: int = 8, targets: Sequence[str] = ALL_TARGETS, *, seed: int = 0, scale: float = 0.15
) -> dict[str, np.ndarray]:
    """Random `A` and `B` of each target in each layer, by PEFT's names."""
    rng = np.random.default_rng(seed)
    q, kv = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    hidden, ffn = spec.hidden_size, spec.ffn_size
    sizes = {
        "q_proj": (q, hidden), "k_proj": (kv, hidden), "v_proj": (kv, hidden), "o_proj": (hidden, q),
        "gate_proj": (ffn, hidden), "up_proj": (ffn, hidden), "down_proj": (hidden, ffn),
    }  # fmt: skip
    tensors = {}
    for layer in range(spec.n_layers):
        for target in targets:
            outputs, inputs = sizes[target]
            name = f"base_model.model.model.layers.{layer}.{_PARENTS.get(target, 'mlp')}.{target}"
            tensors[f"{name}.lora_A.weight"] = rng.normal(0, scale, (rank, inputs)).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = rng.normal(0, scale, (outputs, rank)).astype(np.float32)
    return tensors


def adapter_config(rank: int = 8, targets: Sequence[str] = ALL_TARGETS, **overrides: Any) -> dict[str, Any]:
    """What PEFT writes of a plain adapter."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.05,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "target_modules": list(targets),
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        **overrides,
    }


def write_adapter(
    directory: Path,
    spec: ModelSpec,
    rank: int = 8,
    targets: Sequence[str] = ALL_TARGETS,
    *,
    seed: int = 0,
    scale: float = 0.15,
    dtype: str = "F32",
    tensors: Mapping[str, np.ndarray] | None = None,
    **overrides: Any,
) -> Path:
    """A random adapter for a model of this spec; `overrides` are of its settings. Returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).write_text(json.dumps(adapter_config(rank, targets, **overrides)))
    found = adapter_tensors(spec, rank, targets, seed=seed, scale=scale) if tensors is None else tensors
    (directory / WEIGHTS).write_bytes(store(found, dtype))
    return directory
