"""Rotary position embedding (Su et al., RoFormer, arXiv:2104.09864)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from penstock.engine.runners.frequencies import inverse_frequencies

if TYPE_CHECKING:
    from torch import Tensor

    from penstock.models.spec import ModelSpec


class Rotary:
    """The tables of cos and sin for positions 0 .. length - 1, and their application.

    The sine table carries rotate-half's sign (minus for the first half), so that a rotation is
    `x * cos + swap_halves(x) * sin`: three operations whatever the number of heads.
    """

    def __init__(self, spec: ModelSpec, length: int, dtype: torch.dtype, device: torch.device) -> None:
        self.length = length
        frequencies = torch.tensor(inverse_frequencies(spec), dtype=torch.float32)
        angles = torch.arange(length, dtype=torch.float32)[:, None] * frequencies
        cos, sin = angles.cos(), angles.sin()
        # [length, 1, head_dim]: the middle dimension broadcasts over heads
        self._cos = torch.cat((cos, cos), -1).unsqueeze(1).to(dtype).to(device)
        self._sin = torch.cat((-sin, sin), -1).unsqueeze(1).to(dtype).to(device)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin for positions [rows]: each [rows, 1, head_dim]."""
        return self._cos.index_select(0, positions), self._sin.index_select(0, positions)


def rotate_(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotate x [rows, heads, head_dim] in place; x may be a strided view."""
    rows, heads, dim = x.shape
    # Of two halves, rolling by one is swapping them, and cheaper than flip.
    swapped = x.view(rows, heads, 2, dim // 2).roll(1, 2).view(rows, heads, dim)
    torch.addcmul(x * cos, swapped, sin, out=x)
