"""Gemma 3, text only: windows in five of six layers, norms before and after, a GELU gate.

https://arxiv.org/abs/2503.19786
"""

from __future__ import annotations

from penstock.models.architectures.base import Architecture, HFFamily

GEMMA3 = Architecture(
    name="gemma3",
    gguf_name="gemma3",
    families=(
        HFFamily(
            "gemma3_text",
            "Gemma3ForCausalLM",
            window="by pattern",
            default_head_dim=256,
            defaults={
                "query_pre_attn_scalar": 256,
                "rope_local_base_freq": 10_000.0,
                "rope_theta": 1_000_000.0,
                "sliding_window": 4096,
                "sliding_window_pattern": 6,
                "tie_word_embeddings": True,
            },
            renamed={"mlp_norm": "pre_feedforward_layernorm"},
            norms_from_one=True,
        ),
    ),
    qk_norm=True,
    post_norms=True,
    activation="gelu",
    scaled_embeddings=True,
    scaled_queries=True,
    gguf_window_pattern=6,
    gguf_local_rope_theta=10_000.0,
    gguf_query_scalars={62: 168.0},  # the model of 27 billion, whose heads are not hidden_size / n_heads wide
)
