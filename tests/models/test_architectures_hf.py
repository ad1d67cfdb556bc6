"""config.json as a ModelSpec: what is read, and what is refused rather than computed wrongly."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.errors import ModelFileError
from penstock.models.architectures import ARCHITECTURES
from penstock.models.architectures.base import gguf_name, hf_name, tensor_shapes
from penstock.models.architectures.gemma3 import GEMMA3 as GEMMA3_ARCHITECTURE
from penstock.models.architectures.hf_config import spec_from_hf
from penstock.models.spec import ModelSpec, RopeScaling

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 2048,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 320,
    "tie_word_embeddings": False,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}


def spec_of(base: dict[str, Any] = LLAMA, generation: dict[str, Any] | None = None, **overrides: Any) -> ModelSpec:
    return spec_from_hf(base | overrides, generation or {}, "tiny", "config.json")[1]


def of_type(model_type: str, class_name: str, **fields: Any) -> dict[str, Any]:
    return LLAMA | {"model_type": model_type, "architectures": [class_name]} | fields


MISTRAL = of_type("mistral", "MistralForCausalLM")
QWEN2 = of_type("qwen2", "Qwen2ForCausalLM")
QWEN3 = of_type("qwen3", "Qwen3ForCausalLM", head_dim=32)
GEMMA3 = of_type("gemma3_text", "Gemma3ForCausalLM", hidden_act=None, tie_word_embeddings=None)
GEMMA3 = {key: value for key, value in GEMMA3.items() if value is not None}


def test_llama_config_when_read_then_the_spec_says_the_same() -> None:
    assert spec_of() == ModelSpec(
        architecture="llama",
        name="tiny",
        vocab_size=320,
        hidden_size=64,
        ffn_size=96,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        head_dim=16,
        context_length=2048,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
    )


def test_each_architecture_when_read_then_its_switches_are_set() -> None:
    switches = {
        spec.architecture: (spec.qkv_bias, spec.qk_norm) for spec in map(spec_of, (LLAMA, MISTRAL, QWEN2, QWEN3))
    }
    assert switches == {"llama": (False, False), "qwen2": (True, False), "qwen3": (False, True)}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (10000.0, None)),
        ({"rope_theta": 5e5}, (5e5, None)),
        ({"rope_theta": 500000}, (5e5, None)),
        ({"rope_scaling": None, "rope_theta": 5e5}, (5e5, None)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, (1e6, None)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "rope_theta": 5.0}, (1e6, None)),
        ({"rope_scaling": {"type": "linear", "factor": 4}}, (10000.0, RopeScaling("linear", 4.0))),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 9.0}},
            (9.0, RopeScaling("linear", 4.0)),
        ),
        ({"rope_scaling": LLAMA3, "rope_theta": 5e5}, (5e5, RopeScaling("llama3", 32.0, 1.0, 4.0, 512))),
        ({"rope_parameters": LLAMA3 | {"rope_theta": 5e5}}, (5e5, RopeScaling("llama3", 32.0, 1.0, 4.0, 512))),
        (
            {"rope_parameters": LLAMA3, "original_max_position_embeddings": 256},
            (10000.0, RopeScaling("llama3", 32.0, 1.0, 4.0, 256)),
        ),
    ],
)
def test_rope_settings_old_and_new_when_read_then_mean_the_same(fields: dict[str, Any], expected: object) -> None:
    spec = spec_of(**fields)
    assert (spec.rope_theta, spec.rope_scaling) == expected


@pytest.mark.parametrize(
    ("base", "fields", "window"),
    [
        (LLAMA, {"sliding_window": 32}, None),
        (MISTRAL, {"sliding_window": 32}, 32),
        (MISTRAL, {"sliding_window": None}, None),
        (MISTRAL, {}, 4096),
        (QWEN2, {"sliding_window": 32}, None),
        (QWEN2, {"sliding_window": None, "use_sliding_window": True, "max_window_layers": 0}, None),
        (QWEN2, {"sliding_window": 32, "use_sliding_window": False, "max_window_layers": 0}, None),
        (QWEN2, {"sliding_window": 32, "use_sliding_window": True, "max_window_layers": 0}, 32),
        (QWEN2, {"sliding_window": 32, "use_sliding_window": True, "max_window_layers": 2}, None),
        (QWEN2, {"sliding_window": 32, "use_sliding_window": True}, None),
        (QWEN3, {"sliding_window": 32, "use_sliding_window": True, "layer_types": ["sliding_attention"] * 2}, 32),
        (QWEN3, {"sliding_window": 32, "use_sliding_window": True, "layer_types": ["full_attention"] * 2}, None),
    ],
)
def test_sliding_window_when_read_then_holds_as_in_its_architecture(
    base: dict[str, Any], fields: dict[str, Any], window: int | None
) -> None:
    assert spec_of(base, **fields).sliding_window == window


MIXED = ["full_attention", "sliding_attention"]


@pytest.mark.parametrize(
    ("base", "fields", "global_layers"),
    [
        (QWEN2, {"use_sliding_window": True, "max_window_layers": 1}, (0,)),
        (QWEN3, {"use_sliding_window": True, "layer_types": MIXED}, (0,)),
        (GEMMA3, {"layer_types": MIXED}, (0,)),
        (GEMMA3, {"num_hidden_layers": 13}, (5, 11)),
        (GEMMA3, {"num_hidden_layers": 7, "sliding_window_pattern": 3}, (2, 5)),
        (GEMMA3, {"sliding_window_pattern": 1}, ()),
    ],
)
def test_a_window_of_some_layers_when_read_then_leaves_the_others_out(
    base: dict[str, Any], fields: dict[str, Any], global_layers: tuple[int, ...]
) -> None:
    spec = spec_of(base, sliding_window=32, **fields)
    assert spec.global_layers == global_layers
    windows = [spec.window(layer) for layer in range(spec.n_layers)]
    if fields.get("sliding_window_pattern") == 1:
        assert set(windows) == {None}
        assert spec.windows == (None,)
    else:
        assert windows == [None if layer in global_layers else 32 for layer in range(spec.n_layers)]
        assert spec.windows == (None, 32)


def test_gemma_config_when_it_says_little_then_the_spec_says_what_transformers_takes_it_to_mean() -> None:
    spec = spec_of(GEMMA3, num_hidden_layers=6)
    assert (spec.architecture, spec.head_dim, spec.query_scalar, spec.tied_embeddings) == ("gemma3", 256, 256, True)
    assert (spec.rope_theta, spec.local_rope_theta, spec.sliding_window) == (1e6, 1e4, 4096)
    assert (spec.activation, spec.post_norms, spec.qk_norm, spec.embedding_scale) == ("gelu", True, True, 8.0)
    assert spec.attention_scale == 1 / 16


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_theta": 5e5, "rope_local_base_freq": 7e3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 7e3},
            }
        },
    ],
    ids=["old spelling", "new spelling"],
)
def test_gemma_rotation_when_read_in_either_spelling_then_is_the_same(fields: dict[str, Any]) -> None:
    spec = spec_of(GEMMA3, **fields)
    assert (spec.rope_theta, spec.local_rope_theta) == (5e5, 7e3)
    assert spec.rope_scaling == RopeScaling("linear", factor=8.0)


def test_absent_values_when_read_then_take_transformers_meaning() -> None:
    config = {
        key: value
        for key, value in LLAMA.items()
        if key not in {"num_key_value_heads", "rms_norm_eps", "tie_word_embeddings", "hidden_act", "architectures"}
    }
    spec = spec_of(config)
    assert (spec.n_kv_heads, spec.rms_norm_eps, spec.tied_embeddings) == (4, 1e-6, False)
    qwen3 = {key: value for key, value in QWEN3.items() if key != "head_dim"}
    assert spec_of(qwen3).head_dim == 128
    assert spec_of(MISTRAL, head_dim=None).head_dim == 16


@pytest.mark.parametrize(
    ("fields", "generation", "expected"),
    [
        ({"bos_token_id": 1, "eos_token_id": 2}, {}, (1, (2,))),
        ({"bos_token_id": 1, "eos_token_id": [2, 3, 2]}, {}, (1, (2, 3))),
        ({"eos_token_id": 2}, {"eos_token_id": [5, 6]}, (None, (5, 6))),
        ({"eos_token_id": 2}, {"eos_token_id": None}, (None, (2,))),
        ({"bos_token_id": None, "eos_token_id": None}, {}, (None, ())),
        ({"bos_token_id": -1, "eos_token_id": [319, 320]}, {}, (None, (319,))),
    ],
)
def test_special_tokens_when_read_then_generation_config_comes_first(
    fields: dict[str, Any], generation: dict[str, Any], expected: object
) -> None:
    spec = spec_of(LLAMA, generation, **fields)
    assert (spec.bos_token_id, spec.eos_token_ids) == expected


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (LLAMA, {"model_type": "gpt2"}, "'gpt2, LlamaForCausalLM' isn't supported"),
    (LLAMA, {"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification' isn't supported"),
    (LLAMA, {"model_type": None}, "model_type is missing"),
    (LLAMA, {"model_type": 7}, "model_type is 7, not a string"),
    (LLAMA, {"architectures": "LlamaForCausalLM"}, "not a list of strings"),
    (LLAMA, {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    (LLAMA, {"mlp_bias": True}, "mlp_bias is True"),
    (LLAMA, {"attention_bias": True}, "attention_bias is True"),
    (QWEN3, {"attention_bias": True}, "attention_bias is True"),
    (LLAMA, {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    (LLAMA, {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    (LLAMA, {"num_local_experts": 8}, "num_local_experts is 8"),
    (LLAMA, {"num_experts": 64}, "num_experts is 64"),
    (LLAMA, {"quantization_config": {"quant_method": "fp8"}}, "quantized safetensors aren't supported"),
    (LLAMA, {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "type is 'yarn'"),
    (LLAMA, {"rope_parameters": {"rope_type": "longrope"}}, "rope_type is 'longrope'"),
    (LLAMA, {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'"),
    (LLAMA, {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differs by layer"),
    (LLAMA, {"rope_parameters": {"rope_type": "linear"}}, "factor is missing"),
    (LLAMA, {"rope_parameters": {"rope_type": "linear", "factor": 0}}, "factor is 0, not a number over 0"),
    (LLAMA, {"rope_parameters": LLAMA3 | {"factor": None}}, "factor is missing"),
    (LLAMA, {"rope_parameters": LLAMA3 | {"high_freq_factor": 1.0}}, "not over low_freq_factor"),
    (LLAMA, {"rope_parameters": "default"}, "rope_parameters is 'default', not an object"),
    (LLAMA, {"rope_parameters": {"rope_type": ["default"]}}, "rope_type is ['default'], not a string"),
    (
        QWEN2,
        {"use_sliding_window": True, "layer_types": ["linear_attention"] * 2},
        "layer_types is ['linear_attention', 'linear_attention'], not",
    ),
    (QWEN2, {"use_sliding_window": True, "layer_types": ["full_attention"] * 3}, "for each of the 2 layers"),
    (GEMMA3, {"layer_types": ["full_attention"]}, "for each of the 2 layers"),
    (GEMMA3, {"hidden_activation": "silu"}, "hidden_activation is 'silu'"),
    (GEMMA3, {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
    (GEMMA3, {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
    (GEMMA3, {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
    (GEMMA3, {"sliding_window": None}, "sliding_window is missing"),
    (GEMMA3, {"sliding_window_pattern": 0}, "sliding_window_pattern is 0"),
    (GEMMA3, {"query_pre_attn_scalar": -1}, "query_pre_attn_scalar is -1"),
    (GEMMA3, {"rope_parameters": {"sliding_attention": LLAMA3}}, "layers with a window isn't supported"),
    (GEMMA3, {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_type is 'yarn'"),
    (LLAMA, {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differs by layer"),
    (MISTRAL, {"sliding_window": 0}, "sliding_window is 0"),
    (LLAMA, {"num_attention_heads": 0}, "num_attention_heads is 0"),
    (LLAMA, {"num_attention_heads": -4}, "num_attention_heads is -4"),
    (LLAMA, {"num_key_value_heads": 3}, "doesn't divide num_attention_heads (4)"),
    (LLAMA, {"num_attention_heads": 3, "num_key_value_heads": 1}, "not a multiple of num_attention_heads (3)"),
    (LLAMA, {"head_dim": 7}, "can't be rotated in pairs"),
    (LLAMA, {"hidden_size": 60}, "heads of 15 can't be rotated in pairs"),
    (LLAMA, {"head_dim": 0}, "head_dim is 0"),
    (LLAMA, {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
    (LLAMA, {"num_hidden_layers": 10**5000}, "num_hidden_layers is a huge number"),
    (LLAMA, {"hidden_size": "64"}, "hidden_size is '64', not a whole number"),
    (LLAMA, {"hidden_size": 64.0}, "hidden_size is 64.0, not a whole number"),
    (LLAMA, {"hidden_size": True}, "hidden_size is True, not a whole number"),
    (LLAMA, {"hidden_size": [64]}, "hidden_size is of type list"),
    (LLAMA, {"hidden_size": None}, "hidden_size is missing"),
    (LLAMA, {"vocab_size": 2**40}, "vocab_size is"),
    (LLAMA, {"max_position_embeddings": 0}, "max_position_embeddings is 0"),
    (LLAMA, {"rms_norm_eps": math.nan}, "rms_norm_eps is nan"),
    (LLAMA, {"rms_norm_eps": math.inf}, "rms_norm_eps is inf"),
    (LLAMA, {"rms_norm_eps": 0}, "rms_norm_eps is 0"),
    (LLAMA, {"rms_norm_eps": "1e-5"}, "rms_norm_eps is '1e-5'"),
    (LLAMA, {"rope_theta": -1.0}, "rope_theta is -1.0"),
    (LLAMA, {"rope_theta": 10**400}, "rope_theta is a huge number"),
    (LLAMA, {"tie_word_embeddings": "yes"}, "neither true nor false"),
    (LLAMA, {"eos_token_id": "2"}, "not a token id"),
    (LLAMA, {"eos_token_id": [2, None]}, "not a token id"),
]


@pytest.mark.parametrize(("base", "fields", "reason"), REFUSED)
def test_absurd_or_unsupported_config_when_read_then_is_refused_by_name(
    base: dict[str, Any], fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelFileError) as caught:
        spec_of(base, **fields)
    assert reason in caught.value.message
    assert "config.json" in caught.value.message


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*LLAMA3, "type"]), inner, max_size=3),
    max_leaves=6,
)
KEYS = [*LLAMA, "head_dim", "rope_parameters", "rope_scaling", "rope_theta", "sliding_window", "use_sliding_window"]
KEYS += ["sliding_window_pattern", "query_pre_attn_scalar", "rope_local_base_freq", "hidden_activation"]
KEYS += ["layer_types", "max_window_layers", "eos_token_id", "bos_token_id", "attention_bias", "quantization_config"]


@settings(max_examples=500, deadline=None, derandomize=True)
@given(
    base=st.sampled_from([LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA3]),
    fields=st.dictionaries(st.sampled_from(KEYS), JSON_VALUES, min_size=1, max_size=4),
)
def test_any_json_in_any_setting_when_read_then_gives_a_spec_or_is_refused(
    base: dict[str, Any], fields: dict[str, Any]
) -> None:
    try:
        spec = spec_of(base, **fields)
    except ModelFileError:
        return
    assert spec.n_heads % spec.n_kv_heads == 0
    assert 0 < spec.rms_norm_eps <= 1
    assert 0 < spec.rope_theta < math.inf


def test_tensor_names_of_a_spec_when_mapped_then_are_unique_in_both_formats() -> None:
    for config in (LLAMA, QWEN2, QWEN3, GEMMA3):
        names = [name for name, _ in tensor_shapes(spec_of(config))]
        renamed = GEMMA3_ARCHITECTURE.families[0].renamed if config is GEMMA3 else {}
        assert len({hf_name(name, renamed) for name in names}) == len(names)
        assert len({gguf_name(name) for name in names}) == len(names)


def test_parameters_of_the_spec_when_counted_then_are_the_matrices_of_its_tensors() -> None:
    for config in (LLAMA, QWEN2, QWEN3, GEMMA3):
        spec = spec_of(config)
        matrices = sum(math.prod(shape) for _, shape in tensor_shapes(spec) if len(shape) == 2)
        assert spec.parameters == matrices


def test_architectures_when_looked_up_then_no_two_share_a_name() -> None:
    families = [family.model_type for architecture in ARCHITECTURES for family in architecture.families]
    assert len(set(families)) == len(families)
    assert len({architecture.gguf_name for architecture in ARCHITECTURES}) == len(ARCHITECTURES)
