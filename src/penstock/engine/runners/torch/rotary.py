"""Rotary position embedding (Su et al., RoFormer, arXiv:2104.09864)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from penstock.engine.runners.frequencies import inverse_frequencies, local_frequencies

if TYPE_CHECKING:
    from torch import Tensor

    from penstock.models.spec import ModelSpec


class Rotary:
    """The tables of cos and sin for positions 0 .. length - 1, for layers of each window that a model has.

    The sine table carries rotate-half's sign (minus for the first half), so that a rotation is
    `x * cos + swap_halves(x) * sin`: three operations whatever the number of heads.
    """

    def __init__(self, spec: ModelSpec, length: int, dtype: torch.dtype, device: torch.device) -> None:
        self.length = length
        usual, local = inverse_frequencies(spec), local_frequencies(spec)
        by_window = [local if window is not None and local else usual for window in spec.windows]
        self._tables = [_tables(frequencies, length, dtype, device) for frequencies in by_window]

    def at(self, positions: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each of the model's windows cos and sin at positions [rows]: each [rows, 1, head_dim]."""
        return [(cos.index_select(0, positions), sin.index_select(0, positions)) for cos, sin in self._tables]


def _tables(frequencies: list[float], length: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    angles = torch.arange(length, dtype=torch.float32)[:, None] * torch.tensor(frequencies, dtype=torch.float32)
    cos, sin = angles.cos(), angles.sin()
    # [length, 1, head_dim]: the middle dimension broadcasts over heads
    both = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
    return both[0].unsqueeze(1).to(dtype).to(device), both[1].unsqueeze(1).to(dtype).to(device)


def rotate_(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotate x [rows, heads, head_dim] in place; x may be a strided view."""
    rows, heads, dim = x.shape
    # Of two halves, rolling by one is swapping them, and cheaper than flip.
    swapped = x.view(rows, heads, 2, dim // 2).roll(1, 2).view(rows, heads, dim)
    if torch.compiler.is_compiling():  # which takes no strided `out`, and makes one kernel of this all the same
        x.copy_(torch.addcmul(x * cos, swapped, sin))
    else:
        torch.addcmul(x * cos, swapped, sin, out=x)
