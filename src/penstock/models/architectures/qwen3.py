"""Qwen3: Llama with RMSNorm on each head of Q and K, and a head size of its own. https://arxiv.org/abs/2505.09388"""

from __future__ import annotations

from penstock.models.architectures.base import Architecture, HFFamily

QWEN3 = Architecture(
    name="qwen3",
    gguf_name="qwen3",
    families=(HFFamily("qwen3", "Qwen3ForCausalLM", window="if used", default_head_dim=128),),
    qk_norm=True,
)
