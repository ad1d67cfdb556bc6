"""GGUF metadata as a ModelSpec. Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md"""

from __future__ import annotations

import math
from array import array
from itertools import chain
from typing import TYPE_CHECKING

from penstock.core.errors import ModelFileError
from penstock.models.architectures import find_gguf
from penstock.models.architectures.base import gguf_name
from penstock.models.architectures.fields import MAX_HEADS, MAX_LAYERS, Fields
from penstock.models.spec import ModelSpec, RopeScaling

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from penstock.models.architectures.base import Architecture
    from penstock.models.spec import TensorInfo

# Settings (after "{architecture}.") that must be absent or harmless: anything else changes the computation.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.scale": (0,),
    "attention.shared_kv_layers": (0,),
    "attention.temperature_length": (0,),
    "attention.temperature_scale": (0,),
    "attn_logit_softcapping": (0,),
    "embedding_scale": (0, 1),
    "expert_count": (0,),
    "final_logit_softcapping": (0,),
    "leading_dense_block_count": (0,),
    "logit_scale": (0, 1),
    "nextn_predict_layers": (0,),
    "pooling_type": (0,),
    "residual_scale": (0, 1),
    "rope.dimension_sections": (),
    "rope.scaling.alpha": (0, 1),
    "rope.scaling.attn_factor": (0, 1),
    "use_parallel_residual": (False,),
}


def spec_from_gguf(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, TensorInfo],
    rope_factors: tuple[float, ...],
    name: str,
    where: str,
) -> tuple[Architecture, ModelSpec]:
    """`rope_factors` is the content of `rope_freqs.weight`, empty if there is none; `where` names the file.

    Raises ModelFileError for a value that is absent, absurd, or asks for something that isn't supported.
    """
    general = Fields(metadata, where, "general.")
    general.require_neutral({"type": ("model",), "quantization_version": (2,)})
    architecture = find_gguf(general.text("architecture"), where)
    fields = Fields(metadata, where, f"{architecture.gguf_name}.")
    fields.require_neutral(NEUTRAL)
    if not architecture.gguf_window_pattern:
        fields.require_neutral({"attention.sliding_window_pattern": (0,)})
    embedding = tensors.get(gguf_name("embed.weight"))
    if embedding is None or len(embedding.shape) != 2:
        raise ModelFileError(f"{where}: the matrix {gguf_name('embed.weight')!r} is missing.")
    vocab_size = embedding.shape[0]
    hidden_size = fields.integer("embedding_length")
    n_heads = fields.integer("attention.head_count", high=MAX_HEADS)
    n_kv_heads = fields.integer("attention.head_count_kv", n_heads, high=MAX_HEADS)
    if n_heads % n_kv_heads:
        raise fields.error("attention.head_count_kv", f"which doesn't divide attention.head_count ({n_heads})")
    head_dim = _head_dim(fields, n_heads)
    tokenizer = Fields(metadata, where, "tokenizer.ggml.")
    n_layers = fields.integer("block_count", high=MAX_LAYERS)
    window = fields.integer("attention.sliding_window", 0, low=0) or None
    global_layers = _global_layers(fields, architecture, n_layers) if window else ()
    ends = (tokenizer.token_ids(f"{end}_token_id", vocab_size) for end in ("eos", "eot", "eom"))
    spec = ModelSpec(
        architecture=architecture.name,
        name=general.text("name", name) or name,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        ffn_size=fields.integer("feed_forward_length"),
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        context_length=fields.integer("context_length"),
        rms_norm_eps=fields.number("attention.layer_norm_rms_epsilon", high=1.0),
        rope_theta=fields.number("rope.freq_base", 10000.0),
        rope_scaling=_rope_scaling(fields, rope_factors, head_dim),
        qkv_bias=architecture.qkv_bias,
        qk_norm=architecture.qk_norm,
        tied_embeddings=gguf_name("head.weight") not in tensors,
        activation=architecture.activation,
        post_norms=architecture.post_norms,
        embedding_scale=math.sqrt(hidden_size) if architecture.scaled_embeddings else 1.0,
        query_scalar=architecture.gguf_query_scalars.get(n_layers),
        sliding_window=window,
        global_layers=global_layers,
        local_rope_theta=_local_rope_theta(fields, architecture) if window else None,
        bos_token_id=next(iter(tokenizer.token_ids("bos_token_id", vocab_size)), None),
        eos_token_ids=tuple(dict.fromkeys(chain.from_iterable(ends))),
    )
    return architecture, spec


def _global_layers(fields: Fields, architecture: Architecture, n_layers: int) -> tuple[int, ...]:
    """Layers that the window leaves out: each so-manieth, or those that the file's own pattern names."""
    key = "attention.sliding_window_pattern"
    said = fields.get(key)
    if isinstance(said, array):
        if len(said) != n_layers or not set(said) <= {0, 1}:
            raise fields.error(key, f"not one yes or no for each of the {n_layers} layers")
        return tuple(layer for layer, windowed in enumerate(said) if not windowed)
    pattern = fields.integer(key, architecture.gguf_window_pattern, low=0, high=MAX_LAYERS)
    return tuple(range(pattern - 1, n_layers, pattern)) if pattern else ()


def _local_rope_theta(fields: Fields, architecture: Architecture) -> float | None:
    if architecture.gguf_local_rope_theta is None:
        return None
    return fields.number("rope.freq_base_swa", architecture.gguf_local_rope_theta)


def _head_dim(fields: Fields, n_heads: int) -> int:
    head_dim = fields.integer("attention.key_length", fields.integer("embedding_length") // n_heads, high=MAX_HEADS)
    if head_dim % 2 or head_dim == 0:
        raise fields.error("attention.head_count", f"and heads of {head_dim} can't be rotated in pairs")
    for key, what in (
        ("attention.value_length", "values of another size"),
        ("rope.dimension_count", "partial rotation"),
    ):
        if fields.integer(key, head_dim, low=0) != head_dim:
            raise fields.error(key, f"and {what} than the keys' ({head_dim}) isn't supported")
    return head_dim


def _rope_scaling(fields: Fields, factors: tuple[float, ...], head_dim: int) -> RopeScaling | None:
    kind = fields.text("rope.scaling.type", "linear")
    if kind not in {"none", "linear"}:
        raise fields.error(
            "rope.scaling.type", "and only 'none' and 'linear' are supported: the answers would be wrong"
        )
    old_factor = fields.number("rope.scale_linear", 1.0)
    factor = 1.0 if kind == "none" else fields.number("rope.scaling.factor", old_factor)
    if factors:
        if len(factors) != head_dim // 2:
            raise ModelFileError(f"{fields.where}: rope_freqs.weight has {len(factors)} numbers, not {head_dim // 2}.")
        return RopeScaling("factors", factors=tuple(factor * value for value in factors))
    return None if factor == 1.0 else RopeScaling("linear", factor=factor)
