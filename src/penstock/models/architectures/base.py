"""What describes an architecture, and the names that files give its tensors.

All of them are the same machine (see `models/spec.py`) with a few switches, so an architecture is data:
the names it goes by, the switches, and where the two file formats differ from the canonical form.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from penstock.models.spec import Activation, ModelSpec

# When a Hugging Face config's `sliding_window` takes effect: never; in all layers whenever it is set; only if
# `use_sliding_window` is true, and then from layer `max_window_layers` on; or in all layers but each
# `sliding_window_pattern`th. For the last two `layer_types`, where it is given, has the final say.
WindowRule = Literal["never", "if set", "if used", "by pattern"]


@dataclass(frozen=True, slots=True)
class HFFamily:
    """One `model_type` of Hugging Face: its class, what its config means where it says nothing, and how it differs
    from the usual names and values of tensors.
    """

    model_type: str
    class_name: str  # as in config.json's `architectures`
    window: WindowRule = "never"
    default_head_dim: int | None = None  # None: hidden_size / num_attention_heads
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of other keys that are absent
    renamed: Mapping[str, str] = field(default_factory=dict)  # modules that it calls otherwise than `LAYER_NAMES` says
    norms_from_one: bool = False  # the weights of norms are stored less one


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture: how its files are recognised, and which switches of ModelSpec it sets."""

    name: str
    gguf_name: str  # GGUF's `general.architecture`
    families: tuple[HFFamily, ...]
    qkv_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    activation: Activation = "silu"
    scaled_embeddings: bool = False  # by the square root of their size
    scaled_queries: bool = False  # by what a config calls query_pre_attn_scalar
    # What a GGUF file leaves unsaid: that all but each so-manieth layer have its window (0: all of them do), by what
    # those rotate, and the query scalar of models with so many layers.
    gguf_window_pattern: int = 0
    gguf_local_rope_theta: float | None = None
    gguf_query_scalars: Mapping[int, float] = field(default_factory=dict)
    gguf_interleaved_qk: bool = False  # GGUF stores Q and K rows for neighbouring pairs: un-permute them


# canonical suffix -> (Hugging Face, GGUF); a layer's names come after "layers.{i}.", "model.layers.{i}.", "blk.{i}."
GLOBAL_NAMES: Mapping[str, tuple[str, str]] = {
    "embed.weight": ("model.embed_tokens.weight", "token_embd.weight"),
    "final_norm.weight": ("model.norm.weight", "output_norm.weight"),
    "head.weight": ("lm_head.weight", "output.weight"),
}
LAYER_NAMES: Mapping[str, tuple[str, str]] = {
    "attn_norm": ("input_layernorm", "attn_norm"),
    "q": ("self_attn.q_proj", "attn_q"),
    "k": ("self_attn.k_proj", "attn_k"),
    "v": ("self_attn.v_proj", "attn_v"),
    "q_norm": ("self_attn.q_norm", "attn_q_norm"),
    "k_norm": ("self_attn.k_norm", "attn_k_norm"),
    "o": ("self_attn.o_proj", "attn_output"),
    "attn_post_norm": ("post_attention_layernorm", "post_attention_norm"),
    "mlp_norm": ("post_attention_layernorm", "ffn_norm"),
    "gate": ("mlp.gate_proj", "ffn_gate"),
    "up": ("mlp.up_proj", "ffn_up"),
    "down": ("mlp.down_proj", "ffn_down"),
    "mlp_post_norm": ("post_feedforward_layernorm", "post_ffw_norm"),
}


def hf_name(canonical: str, renamed: Mapping[str, str] | None = None) -> str:
    """What a Hugging Face checkpoint calls a canonical tensor; `renamed` as its family has it."""
    return _stored_name(canonical, 0, "model.layers", renamed or {})


def gguf_name(canonical: str) -> str:
    """What a GGUF file calls a canonical tensor."""
    return _stored_name(canonical, 1, "blk", {})


def _stored_name(canonical: str, column: int, layers: str, renamed: Mapping[str, str]) -> str:
    if canonical in GLOBAL_NAMES:
        return GLOBAL_NAMES[canonical][column]
    _, layer, module, kind = canonical.split(".")
    return f"{layers}.{layer}.{renamed.get(module) or LAYER_NAMES[module][column]}.{kind}"


def tensor_shapes(spec: ModelSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor a model of this spec has, by canonical name, with its shape."""
    hidden, ffn = spec.hidden_size, spec.ffn_size
    queries, keys = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    layer: dict[str, tuple[int, ...]] = {"attn_norm.weight": (hidden,)}
    for module, rows in (("q", queries), ("k", keys), ("v", keys)):
        layer[f"{module}.weight"] = (rows, hidden)
        if spec.qkv_bias:
            layer[f"{module}.bias"] = (rows,)
    if spec.qk_norm:
        layer |= {"q_norm.weight": (spec.head_dim,), "k_norm.weight": (spec.head_dim,)}
    layer |= {
        "o.weight": (hidden, queries),
        "mlp_norm.weight": (hidden,),
        "gate.weight": (ffn, hidden),
        "up.weight": (ffn, hidden),
        "down.weight": (hidden, ffn),
    }
    if spec.post_norms:
        layer |= {"attn_post_norm.weight": (hidden,), "mlp_post_norm.weight": (hidden,)}
    yield "embed.weight", (spec.vocab_size, hidden)
    for i in range(spec.n_layers):
        for suffix, shape in layer.items():
            yield f"layers.{i}.{suffix}", shape
    yield "final_norm.weight", (hidden,)
    if not spec.tied_embeddings:
        yield "head.weight", (spec.vocab_size, hidden)
