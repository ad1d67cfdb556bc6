"""Frequencies of rotary position embedding (Su et al., RoFormer, arXiv:2104.09864), with `RopeScaling` applied."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from penstock.models.spec import ModelSpec, RopeScaling


def inverse_frequencies(spec: ModelSpec) -> NDArray[np.float32]:
    """Radians per position of each rotated pair, scaled as the model asks: float32 [head_dim / 2]."""
    exponents = np.arange(0, spec.head_dim, 2).astype(np.float32) / np.float32(spec.head_dim)
    frequencies: NDArray[np.float32] = np.float32(1) / np.power(np.float32(spec.rope_theta), exponents)
    scaling = spec.rope_scaling
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / np.float32(scaling.factor)
    if scaling.kind == "factors":
        scaled: NDArray[np.float32] = frequencies / np.array(scaling.factors, dtype=np.float32)
        return scaled
    return _llama3(frequencies, scaling)


def _llama3(frequencies: NDArray[np.float32], scaling: RopeScaling) -> NDArray[np.float32]:
    """Llama 3.1's rule: keep short wavelengths, divide long ones by `factor`, blend between the two."""
    turns = np.float32(scaling.original_context / (2 * math.pi)) * frequencies
    span = np.float32(scaling.high_freq_factor - scaling.low_freq_factor)
    blend = np.clip((turns - np.float32(scaling.low_freq_factor)) / span, np.float32(0), np.float32(1))
    scaled: NDArray[np.float32] = frequencies * ((1 - blend) / np.float32(scaling.factor) + blend)
    return scaled
