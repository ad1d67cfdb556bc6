"""A Hugging Face config.json as a ModelSpec.

Both spellings are read: `rope_parameters` (transformers 5) and `rope_scaling` with `rope_theta` (before).
What a key means where it is absent is what transformers takes it to mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.core.errors import ModelFileError
from penstock.models.architectures import find_hf
from penstock.models.architectures.fields import MAX_HEADS, MAX_LAYERS, Fields
from penstock.models.spec import ModelSpec, RopeScaling

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from penstock.models.architectures.base import Architecture, HFFamily

# Settings that must be absent or harmless: anything else changes the computation.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "mlp_bias": (False,),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "n_routed_experts": (0,),
    "partial_rotary_factor": (1,),
    "is_encoder_decoder": (False,),
}


def spec_from_hf(
    config: Mapping[str, Any], generation: Mapping[str, Any], name: str, where: str
) -> tuple[Architecture, ModelSpec]:
    """`config` and `generation` are config.json and generation_config.json; `where` names the former in errors.

    Raises ModelFileError for a value that is absent, absurd, or asks for something that isn't supported.
    """
    fields = Fields(config, where)
    architecture, family = find_hf(fields.text("model_type"), fields.strings("architectures"), where)
    _refuse_unsupported(fields, architecture)
    n_layers = fields.integer("num_hidden_layers", high=MAX_LAYERS)
    n_heads = fields.integer("num_attention_heads", high=MAX_HEADS)
    n_kv_heads = fields.integer("num_key_value_heads", n_heads, high=MAX_HEADS)
    if n_heads % n_kv_heads:
        raise fields.error("num_key_value_heads", f"which doesn't divide num_attention_heads ({n_heads})")
    vocab_size = fields.integer("vocab_size")
    rope_theta, rope_scaling = _rope(fields)
    eos = Fields(generation, "generation_config.json").token_ids("eos_token_id", vocab_size)
    spec = ModelSpec(
        architecture=architecture.name,
        name=name,
        vocab_size=vocab_size,
        hidden_size=fields.integer("hidden_size"),
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
        sliding_window=_sliding_window(fields, family, n_layers),
        bos_token_id=next(iter(fields.token_ids("bos_token_id", vocab_size)), None),
        eos_token_ids=eos or fields.token_ids("eos_token_id", vocab_size),
    )
    return architecture, spec


def _refuse_unsupported(fields: Fields, architecture: Architecture) -> None:
    for key in ("quantization_config", "compression_config"):
        if fields.get(key) is not None:
            raise fields.error(
                key, "and quantized safetensors aren't supported: use the unquantized weights, or a GGUF file"
            )
    fields.require_neutral(NEUTRAL)
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


def _rope(fields: Fields) -> tuple[float, RopeScaling | None]:
    rope = fields.section("rope_scaling" if fields.get("rope_scaling") else "rope_parameters")
    if rope.is_nested():
        raise ModelFileError(f"{rope.where} differs by layer, which isn't supported: the answers would be wrong.")
    rope.require_neutral({"partial_rotary_factor": (1,)})
    theta = rope.number("rope_theta", fields.number("rope_theta", 10000.0))
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


def _sliding_window(fields: Fields, family: HFFamily, n_layers: int) -> int | None:
    null = fields.mentions("sliding_window") and fields.get("sliding_window") is None
    if family.window == "never" or null:
        return None
    if family.window == "if set":
        return fields.integer("sliding_window", 4096)
    if not fields.boolean("use_sliding_window", default=False):
        return None
    full_layers = fields.integer("max_window_layers", 28, low=0)
    kinds = fields.strings("layer_types") or [
        "full_attention" if layer < full_layers else "sliding_attention" for layer in range(n_layers)
    ]
    if set(kinds) == {"full_attention"}:
        return None
    if set(kinds) != {"sliding_attention"}:
        raise fields.error("use_sliding_window", "and a window in some layers only isn't supported")
    return fields.integer("sliding_window", 4096)
