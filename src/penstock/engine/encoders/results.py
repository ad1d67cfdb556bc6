"""What is made of an encoder's output, whoever computed it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Ids = NDArray[np.int32]


class Session(Protocol):
    """An encoder that has been loaded. One thread calls it.

    Attributes:
        pads: whether short texts of a batch are computed as long as its longest.
    """

    pads: bool

    def run(self, token_ids: Sequence[Ids], type_ids: Sequence[Ids]) -> Floats:
        """Vectors [texts, size] of some texts: embeddings, or scores by class.

        Args:
            token_ids: of each text, [length].
            type_ids: of each text, of the same lengths.
        """
        ...


def activate(logits: Floats, activation: str) -> Floats:
    """Scores [texts, classes] of logits."""
    if activation == "sigmoid":
        scores: Floats = np.float32(1) / (np.float32(1) + np.exp(-logits))
        return scores
    if activation == "softmax":
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        scaled: Floats = powers / powers.sum(axis=1, keepdims=True)
        return scaled
    return logits


def unit(vectors: Floats) -> Floats:
    """Each vector [texts, size] scaled to the length 1."""
    norms: Floats = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)
    return (vectors / np.maximum(norms, np.float32(1e-12))).astype(np.float32, copy=False)
