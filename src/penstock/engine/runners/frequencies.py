"""Frequencies of rotary position embedding (Su et al., RoFormer, arXiv:2104.09864), with `RopeScaling` applied."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from penstock.models.spec import ModelSpec, RopeScaling


Frequencies = NDArray[np.float32]


def inverse_frequencies(spec: ModelSpec) -> Frequencies:
    """Radians per position of each rotated pair, scaled as the model asks: float32 [head_dim / 2]."""
    exponents = np.arange(0, spec.head_dim, 2).astype(np.float32) / np.float32(spec.head_dim)
    frequencies: Frequencies = np.reciprocal(np.power(np.float32(spec.rope_theta), exponents))
    return frequencies if spec.rope_scaling is None else _scaled(frequencies, spec.rope_scaling)


def _scaled(frequencies: Frequencies, scaling: RopeScaling) -> Frequencies:
    divisor: Frequencies
    if scaling.kind == "linear":
        divisor = np.full_like(frequencies, scaling.factor)
    elif scaling.kind == "factors":
        divisor = np.array(scaling.factors, dtype=np.float32)
    else:
        divisor = _llama3_divisor(frequencies, scaling)
    scaled: Frequencies = np.divide(frequencies, divisor)
    return scaled


def _llama3_divisor(frequencies: Frequencies, scaling: RopeScaling) -> Frequencies:
    """Llama 3.1's rule: keep short wavelengths, divide long ones by `factor`, blend between the two."""
    turns = frequencies.astype(np.float64) * (scaling.original_context / (2 * math.pi))
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = np.clip(blend, 0.0, 1.0)
    return np.asarray(1 / ((1 - blend) / scaling.factor + blend), dtype=np.float32)
