"""What an encoder's tensors are called in its file: under a prefix or none, as today or as in BERT's first files."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_PREFIXES = ("", "bert.", "roberta.")
_FIRST = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))


def prefix_of(names: Iterable[str]) -> str:
    """What the names of the encoder's own tensors begin with; a head's have no such beginning."""
    known = set(names)
    return next((prefix for prefix in _PREFIXES if f"{prefix}embeddings.word_embeddings.weight" in known), "")


def today(name: str) -> str:
    """A normalization's scale and shift were `gamma` and `beta` once; transformers reads both."""
    for before, after in _FIRST:
        if name.endswith(before):
            return name.removesuffix(before) + after
    return name
