"""Llama 1 to 3.3, SmolLM2, Mistral, and the many models that took their shape.

https://arxiv.org/abs/2302.13971 (Llama), https://arxiv.org/abs/2310.06825 (Mistral: a sliding window)
"""

from __future__ import annotations

from penstock.models.architectures.base import Architecture, HFFamily

LLAMA = Architecture(
    name="llama",
    gguf_name="llama",
    families=(
        HFFamily("llama", "LlamaForCausalLM"),
        HFFamily("mistral", "MistralForCausalLM", window="if set"),
    ),
    gguf_interleaved_qk=True,
)
