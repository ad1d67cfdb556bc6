"""GGUF metadata as a ModelSpec: what is read, and what is refused rather than computed wrongly."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from penstock.core.errors import ModelFileError
from penstock.models.load import load
from penstock.models.spec import ModelSpec, RopeScaling
from support import gguf_files as g

if TYPE_CHECKING:
    from pathlib import Path


def spec_of(tmp_path: Path, architecture: str = "llama", **kwargs: Any) -> ModelSpec:
    path = tmp_path / "model.gguf"
    g.write_tiny_gguf(path, architecture, **kwargs)
    spec, weights = load(path)
    weights.close()
    return spec


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma3"])
@pytest.mark.parametrize("tied", [False, True])
def test_metadata_of_each_architecture_when_read_then_the_spec_says_the_same(
    tmp_path: Path, architecture: str, tied: bool
) -> None:
    expected = g.tiny_spec(architecture, tied_embeddings=tied, head_dim=32, rope_theta=5e5)
    assert spec_of(tmp_path, architecture, spec=expected) == replace(expected, quantization="F32")


def test_optional_metadata_when_absent_then_has_the_meaning_the_format_gives_it(tmp_path: Path) -> None:
    spec = spec_of(
        tmp_path,
        spec=g.tiny_spec(n_kv_heads=4),
        llama__attention__head_count_kv=None,
        llama__attention__key_length=None,
        llama__attention__value_length=None,
        llama__rope__freq_base=None,
        llama__rope__dimension_count=None,
        general__name=None,
        tokenizer__ggml__bos_token_id=None,
        tokenizer__ggml__eos_token_id=None,
    )
    assert (spec.n_kv_heads, spec.head_dim, spec.rope_theta, spec.name) == (4, 16, 10000.0, "model")
    assert (spec.bos_token_id, spec.eos_token_ids) == (None, ())


def test_ends_of_an_answer_when_read_then_are_all_there_once_and_inside_the_vocabulary(tmp_path: Path) -> None:
    spec = spec_of(
        tmp_path,
        tokenizer__ggml__eot_token_id=5,
        tokenizer__ggml__eom_token_id=2,
        tokenizer__ggml__bos_token_id=2**32 - 1,
    )
    assert (spec.bos_token_id, spec.eos_token_ids) == (None, (2, 5))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"llama__rope__scaling__type": "none", "llama__rope__scaling__factor": 4.0}, None),
        ({"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0}, RopeScaling("linear", 4.0)),
        ({"llama__rope__scaling__factor": 4.0}, RopeScaling("linear", 4.0)),
        ({"llama__rope__scale_linear": 2.0}, RopeScaling("linear", 2.0)),
        ({"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 1.0}, None),
    ],
)
def test_rope_scaling_when_read_then_is_linear_or_none(
    tmp_path: Path, fields: dict[str, Any], expected: RopeScaling | None
) -> None:
    assert spec_of(tmp_path, **fields).rope_scaling == expected


def test_rope_factors_when_stored_then_are_in_the_spec_and_scaled_by_a_linear_factor(tmp_path: Path) -> None:
    factors = np.array([1, 1, 1, 2, 4, 8, 8, 8], np.float32)
    extra = [g.tensor("rope_freqs.weight", factors)]
    assert spec_of(tmp_path, extra=extra).rope_scaling == RopeScaling("factors", factors=tuple(factors.tolist()))
    scaled = spec_of(tmp_path, extra=extra, llama__rope__scaling__factor=2.0).rope_scaling
    assert scaled == RopeScaling("factors", factors=tuple((2 * factors).tolist()))


@pytest.mark.parametrize(
    ("factors", "reason"),
    [
        (np.ones(4, np.float32), "has 4 numbers, not 8"),
        (np.ones((2, 4), np.float32), "not a row of F32"),
        (np.array([1, 0, 1, 1, 1, 1, 1, 1], np.float32), "no frequency can be divided by"),
        (np.array([1, np.nan, 1, 1, 1, 1, 1, 1], np.float32), "no frequency can be divided by"),
        (np.array([1, -1, 1, 1, 1, 1, 1, 1], np.float32), "no frequency can be divided by"),
    ],
)
def test_absurd_rope_factors_when_read_then_are_refused(tmp_path: Path, factors: np.ndarray, reason: str) -> None:
    with pytest.raises(ModelFileError, match=reason):
        spec_of(tmp_path, extra=[g.tensor("rope_freqs.weight", factors)])


def test_sliding_window_when_set_then_is_in_the_spec(tmp_path: Path) -> None:
    assert spec_of(tmp_path, llama__attention__sliding_window=32).sliding_window == 32
    assert spec_of(tmp_path, llama__attention__sliding_window=0).sliding_window is None


@pytest.mark.parametrize(
    ("pattern", "global_layers"),
    [(None, (5,)), (3, (2, 5)), (0, ()), ([True, False, True, True, True, False, True], (1, 5))],
)
def test_gemma_layers_that_see_everything_when_read_then_are_as_the_file_says_or_each_sixth(
    tmp_path: Path, pattern: Any, global_layers: tuple[int, ...]
) -> None:
    spec = spec_of(
        tmp_path,
        spec=g.tiny_spec("gemma3", n_layers=7),
        gemma3__attention__sliding_window_pattern=pattern,
        gemma3__rope__freq_base_swa=None,
    )
    assert (spec.sliding_window, spec.global_layers) == (24, global_layers)
    assert (spec.rope_theta, spec.local_rope_theta) == (10000.0, 10000.0)
    assert (spec.activation, spec.post_norms, spec.qk_norm, spec.embedding_scale) == ("gelu", True, True, 8.0)
    assert spec.attention_scale == 1 / 4


def test_gemma_of_27_billion_when_read_then_its_scores_are_scaled_as_for_heads_of_168(tmp_path: Path) -> None:
    assert spec_of(tmp_path, spec=g.tiny_spec("gemma3", n_layers=62)).query_scalar == 168


@pytest.mark.parametrize("pattern", [[True, False], [2] * 7, -1, "sixth"])
def test_absurd_pattern_of_windows_when_read_then_is_refused(tmp_path: Path, pattern: Any) -> None:
    value = g.Value(g.I32, pattern) if isinstance(pattern, int) else pattern
    with pytest.raises(ModelFileError, match="sliding_window_pattern is"):
        spec_of(tmp_path, spec=g.tiny_spec("gemma3", n_layers=7), gemma3__attention__sliding_window_pattern=value)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"general__architecture": "gpt2"}, "architecture 'gpt2' isn't supported. Supported: llama, qwen2, qwen3, gemma3"),
    ({"general__architecture": None}, "general.architecture is missing"),
    ({"general__architecture": ["llama"]}, "general.architecture is ['llama'], not a string"),
    ({"general__type": "adapter"}, "general.type is 'adapter'"),
    ({"general__quantization_version": 1}, "quantization_version is 1"),
    ({"llama__expert_count": 8}, "llama.expert_count is 8"),
    ({"llama__rope__scaling__type": "yarn", "llama__rope__scaling__factor": 4.0}, "rope.scaling.type is 'yarn'"),
    ({"llama__rope__scaling__type": "longrope"}, "rope.scaling.type is 'longrope'"),
    ({"llama__rope__scaling__attn_factor": 1.5}, "rope.scaling.attn_factor is 1.5"),
    ({"llama__rope__scaling__factor": -2.0}, "rope.scaling.factor is -2.0"),
    ({"llama__rope__scaling__factor": float("nan")}, "rope.scaling.factor is nan"),
    ({"llama__rope__dimension_count": 8}, "rope.dimension_count is 8"),
    ({"llama__attention__value_length": 8}, "attention.value_length is 8"),
    ({"llama__attention__key_length": 15}, "can't be rotated in pairs"),
    ({"llama__attention__causal": False}, "attention.causal is False"),
    ({"llama__logit_scale": 0.5}, "logit_scale is 0.5"),
    ({"llama__final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
    ({"llama__attention__head_count": 0}, "attention.head_count is 0"),
    ({"llama__attention__head_count": [4, 4]}, "attention.head_count is of type array"),
    ({"llama__attention__head_count_kv": 3}, "doesn't divide"),
    ({"llama__attention__sliding_window_pattern": [True, False]}, "sliding_window_pattern is of type array"),
    ({"llama__feed_forward_length": [96, 96]}, "feed_forward_length is of type array"),
    ({"llama__block_count": 2**32 - 1}, "block_count is 4294967295"),
    ({"llama__block_count": None}, "llama.block_count is missing"),
    ({"llama__block_count": "2"}, "block_count is '2'"),
    ({"llama__context_length": 0}, "context_length is 0"),
    ({"llama__attention__layer_norm_rms_epsilon": float("nan")}, "layer_norm_rms_epsilon is nan"),
    ({"llama__attention__layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon is missing"),
    ({"llama__rope__freq_base": float("inf")}, "rope.freq_base is inf"),
    ({"tokenizer__ggml__eos_token_id": "2"}, "not a token id"),
]


@pytest.mark.parametrize(("fields", "reason"), REFUSED)
def test_absurd_or_unsupported_metadata_when_read_then_is_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelFileError) as caught:
        spec_of(tmp_path, **fields)
    assert reason in caught.value.message
    assert "model.gguf" in caught.value.message
