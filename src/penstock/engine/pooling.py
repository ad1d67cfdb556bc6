"""A prompt's vector, from the hidden states of the steps that compute it."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from penstock.core.errors import InvariantError

if TYPE_CHECKING:
    from penstock.engine.types import Pooling


class Pool:
    """Gathers one sequence's vector.

    Args:
        pooling: "last" takes the last token's hidden state, "mean" the mean over all tokens.
    """

    def __init__(self, pooling: Pooling) -> None:
        self._pooling = pooling
        self._sum: array[float] | None = None

    def wants(self, start: int, *, last: bool) -> Pooling | None:
        """What a step that begins at position `start` is to give; `last` says that it reaches the prompt's end."""
        if start == 0:  # also after a preemption, which computes the prompt again
            self._sum = None
        return self._pooling if last or self._pooling == "mean" else None

    def add(self, part: bytes) -> None:
        """A step's float32 [hidden_size]: of one position, or summed over its positions."""
        values = array("f", part)
        if self._sum is not None:
            values = array("f", (a + b for a, b in zip(self._sum, values, strict=True)))
        self._sum = values

    def vector(self, tokens: int) -> bytes:
        """The whole, float32 [hidden_size], of a prompt of so many tokens."""
        if self._sum is None:
            raise InvariantError("A prompt was computed, and no step gave its hidden state.")
        if self._pooling == "mean":
            return array("f", (value / tokens for value in self._sum)).tobytes()
        return self._sum.tobytes()
