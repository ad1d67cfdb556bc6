"""A Hugging Face config.json as a ModelSpec.

Both spellings are read: `rope_parameters` (transformers 5) and `rope_scaling` with `rope_theta` (before).
What a key means where it is absent is what transformers takes it to mean.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from penstock.core.errors import ModelFileError
from penstock.models.architectures import find_hf
from penstock.models.architectures.fields import MAX_HEADS, MAX_LAYERS, Fields
from penstock.models.spec import ModelSpec, RopeScaling

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from penstock.models.architectures.base import Architecture, HFFamily
    from penstock.models.spec import Activation

# Settings that must be absent or harmless: anything else changes the computation.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "use_bidirectional_attention": (False,),
    "mlp_bias": (False,),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "n_routed_experts": (0,),
    "partial_rotary_factor": (1,),
    "is_encoder_decoder": (False,),
}

# What a config calls each activation.
ACTIVATIONS: Mapping[Activation, tuple[str, ...]] = {"silu": ("silu", "swish"), "gelu": ("gelu_pytorch_tanh",)}


def spec_from_hf(
    config: Mapping[str, Any], generation: Mapping[str, Any], name: str, where: str
) -> tuple[HFFamily, ModelSpec]:
    """`config` and `generation` are config.json and generation_config.json; `where` names the former in errors.

    Raises ModelFileError for a value that is absent, absurd, or asks for something that isn't supported.
    """
    fields = Fields(config, where)
    architecture, family = find_hf(fields.text("model_type"), fields.strings("architectures"), where)
    fields = Fields({**family.defaults, **config}, where)
    _refuse_unsupported(fields, architecture)
    n_layers = fields.integer("num_hidden_layers", high=MAX_LAYERS)
    n_heads = fields.integer("num_attention_heads", high=MAX_HEADS)
    n_kv_heads = fields.integer("num_key_value_heads", n_heads, high=MAX_HEADS)
    if n_heads % n_kv_heads:
        raise fields.error("num_key_value_heads", f"which doesn't divide num_attention_heads ({n_heads})")
    vocab_size = fields.integer("vocab_size")
    hidden_size = fields.integer("hidden_size")
    window, global_layers = _windows(fields, family, n_layers)
    rope_theta, rope_scaling, local_rope_theta = _rope(fields, family)
    eos = Fields(generation, "generation_config.json").token_ids("eos_token_id", vocab_size)
    spec = ModelSpec(
        architecture=architecture.name,
        name=name,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        ffn_size=fields.integer("intermediate_size"),
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=_head_dim(fields, family, n_heads),
        context_length=fields.integer("max_position_embeddings"),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6, high=1.0),
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        qkv_bias=architecture.qkv_bias,
        qk_norm=architecture.qk_norm,
        tied_embeddings=fields.boolean("tie_word_embeddings", default=False),
        activation=architecture.activation,
        post_norms=architecture.post_norms,
        embedding_scale=math.sqrt(hidden_size) if architecture.scaled_embeddings else 1.0,
        query_scalar=fields.number("query_pre_attn_scalar") if architecture.scaled_queries else None,
        sliding_window=window,
        global_layers=global_layers,
        local_rope_theta=None if window is None else local_rope_theta,
        bos_token_id=next(iter(fields.token_ids("bos_token_id", vocab_size)), None),
        eos_token_ids=eos or fields.token_ids("eos_token_id", vocab_size),
    )
    return family, spec


def _refuse_unsupported(fields: Fields, architecture: Architecture) -> None:
    for key in ("quantization_config", "compression_config"):
        if fields.get(key) is not None:
            raise fields.error(
                key, "and quantized safetensors aren't supported: use the unquantized weights, or a GGUF file"
            )
    activations = ACTIVATIONS[architecture.activation]
    fields.require_neutral({**NEUTRAL, "hidden_act": activations, "hidden_activation": activations})
    if not architecture.qkv_bias:  # where Q, K and V always have one, the key says nothing
        fields.require_neutral({"attention_bias": (False,)})


def _head_dim(fields: Fields, family: HFFamily, n_heads: int) -> int:
    if fields.get("head_dim") is None and family.default_head_dim is None:
        head_dim, remainder = divmod(fields.integer("hidden_size"), n_heads)
        if remainder:
            raise fields.error(
                "hidden_size", f"not a multiple of num_attention_heads ({n_heads}), and head_dim is absent"
            )
    else:
        head_dim = fields.integer("head_dim", family.default_head_dim, high=MAX_HEADS)
    if head_dim % 2 or head_dim == 0:
        raise fields.error("head_dim", f"and heads of {head_dim} can't be rotated in pairs")
    return head_dim


def _rope(fields: Fields, family: HFFamily) -> tuple[float, RopeScaling | None, float | None]:
    """The base and the scaling of all layers, and the base of those with a window where that is another."""
    rope = fields.section("rope_scaling" if fields.get("rope_scaling") else "rope_parameters")
    if family.window != "by pattern":
        return *_rotation(fields, rope, "rope_theta"), None
    # The newer spelling has a section for each kind of layer, the older one a key of its own for the local base.
    local = fields.section("rope_parameters").section("sliding_attention")
    local_theta, local_scaling = _rotation(fields, local, "rope_local_base_freq")
    if local_scaling is not None:
        raise local.error("rope_type", "and scaling the positions of layers with a window isn't supported")
    full = rope.section("full_attention") if rope.is_nested() else rope
    return *_rotation(fields, full, "rope_theta"), local_theta


def _rotation(fields: Fields, rope: Fields, base: str) -> tuple[float, RopeScaling | None]:
    """What one section says; `base` is the key that names the base where the section doesn't."""
    if rope.is_nested():
        raise ModelFileError(f"{rope.where} differs by layer, which isn't supported: the answers would be wrong.")
    rope.require_neutral({"partial_rotary_factor": (1,)})
    theta = rope.number("rope_theta", fields.number(base, 10000.0))
    kind = rope.text("rope_type", rope.text("type", "default"))
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling("linear", factor=rope.number("factor"))
    if kind != "llama3":
        raise rope.error(
            "rope_type" if rope.get("rope_type") else "type",
            "and only 'default', 'linear' and 'llama3' are supported: the answers would be wrong",
        )
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if high <= low:
        raise rope.error("high_freq_factor", f"not over low_freq_factor ({low})")
    trained = fields if fields.get("original_max_position_embeddings") is not None else rope
    context = trained.integer("original_max_position_embeddings", fields.integer("max_position_embeddings"))
    return theta, RopeScaling("llama3", rope.number("factor"), low, high, context)


def _windows(fields: Fields, family: HFFamily, n_layers: int) -> tuple[int | None, tuple[int, ...]]:
    """The sliding window, and the layers that it leaves out."""
    null = fields.mentions("sliding_window") and fields.get("sliding_window") is None
    if family.window == "never" or (null and family.window != "by pattern"):
        return None, ()
    if family.window == "if set":
        return fields.integer("sliding_window", 4096), ()
    if family.window == "if used" and not fields.boolean("use_sliding_window", default=False):
        return None, ()
    kinds = fields.strings("layer_types") or _usual_kinds(fields, family, n_layers)
    if len(kinds) != n_layers or not set(kinds) <= {"full_attention", "sliding_attention"}:
        raise fields.error("layer_types", f"not full_attention or sliding_attention for each of the {n_layers} layers")
    if "sliding_attention" not in kinds:
        return None, ()
    window = fields.integer("sliding_window", None if null else 4096)
    return window, tuple(layer for layer, kind in enumerate(kinds) if kind == "full_attention")


def _usual_kinds(fields: Fields, family: HFFamily, n_layers: int) -> list[str]:
    if family.window == "by pattern":
        pattern = fields.integer("sliding_window_pattern", high=MAX_LAYERS)
        windowed = [(layer + 1) % pattern > 0 for layer in range(n_layers)]
    else:
        full_layers = fields.integer("max_window_layers", 28, low=0)
        windowed = [layer >= full_layers for layer in range(n_layers)]
    return ["sliding_attention" if each else "full_attention" for each in windowed]
