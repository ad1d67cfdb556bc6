"""Loaded weights against transformers' own loading of the same files, and the real model's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from penstock.models.architectures.base import hf_name
from penstock.models.architectures.gemma3 import GEMMA3
from penstock.models.load import load
from support.gguf_files import write_tiny_gguf
from support.tiny_models import VARIANTS, write_tiny_variant

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.oracle


def reference_tensors(directory: Path) -> dict[str, np.ndarray]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def reference_gguf_tensors(path: Path) -> dict[str, np.ndarray]:
    """As `from_pretrained(gguf_file=...)` reads them, which itself asks for the accelerate package on top."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def assert_same_tensors(path: Path, expected: dict[str, np.ndarray]) -> None:
    spec, weights = load(path)
    is_gemma = spec.architecture == "gemma3"  # whose norms transformers counts from one
    renamed = GEMMA3.families[0].renamed if is_gemma else {}
    with weights:
        for name in weights.names():
            found, wanted = weights.read(name), expected[hf_name(name, renamed)]
            if is_gemma and name.endswith("norm.weight"):  # from a GGUF file it took one away, and rounded
                np.testing.assert_allclose(found, wanted + np.float32(1), rtol=0, atol=3e-7, err_msg=name)
            else:
                np.testing.assert_array_equal(found, wanted, err_msg=name)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_checkpoint_when_loaded_then_tensors_equal_transformers(tmp_path: Path, variant: str, sharded: bool) -> None:
    write_tiny_variant(tmp_path, variant, sharded=sharded)
    assert_same_tensors(tmp_path, reference_tensors(tmp_path))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma3"])
def test_tiny_gguf_when_loaded_then_tensors_equal_transformers(tmp_path: Path, architecture: str) -> None:
    write_tiny_gguf(tmp_path / "m.gguf", architecture, "Q8_0")
    assert_same_tensors(tmp_path / "m.gguf", reference_gguf_tensors(tmp_path / "m.gguf"))


def test_real_model_when_loaded_then_tensors_equal_transformers(smollm2_path: Path) -> None:
    assert_same_tensors(smollm2_path, reference_gguf_tensors(smollm2_path))
