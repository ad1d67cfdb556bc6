"""Rotary position embedding (Su et al., RoFormer, arXiv:2104.09864) with the scalings of `RopeScaling`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from penstock.models.spec import ModelSpec, RopeScaling


def inverse_frequencies(spec: ModelSpec) -> Tensor:
    """Radians per position of each rotated pair, scaled as the model asks: float32 [head_dim / 2]."""
    exponents = torch.arange(0, spec.head_dim, 2, dtype=torch.int64).float() / spec.head_dim
    frequencies = 1.0 / (spec.rope_theta**exponents)
    scaling = spec.rope_scaling
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    if scaling.kind == "factors":
        return frequencies / torch.tensor(scaling.factors, dtype=torch.float32)
    return _llama3(frequencies, scaling)


def _llama3(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1's rule: keep short wavelengths, divide long ones by `factor`, blend between the two."""
    wavelengths = 2 * math.pi / frequencies
    turns = scaling.original_context / wavelengths
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = blend.clamp(0.0, 1.0)
    return (1 - blend) * frequencies / scaling.factor + blend * frequencies


class Rotary:
    """The tables of cos and sin for positions 0 .. length - 1, and their application.

    The sine table carries rotate-half's sign (minus for the first half), so that a rotation is
    `x * cos + swap_halves(x) * sin`: three operations whatever the number of heads.
    """

    def __init__(self, spec: ModelSpec, length: int, dtype: torch.dtype, device: torch.device) -> None:
        self.length = length
        angles = torch.arange(length, dtype=torch.float32)[:, None] * inverse_frequencies(spec)
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
