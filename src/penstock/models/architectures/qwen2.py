"""Qwen2 and Qwen2.5: Llama with biases on Q, K and V. https://arxiv.org/abs/2407.10671"""

from __future__ import annotations

from penstock.models.architectures.base import Architecture, HFFamily

QWEN2 = Architecture(
    name="qwen2",
    gguf_name="qwen2",
    families=(HFFamily("qwen2", "Qwen2ForCausalLM", window="if used"),),
    qkv_bias=True,
)
