"""Frequencies of rotary position embedding (Su et al., RoFormer, arXiv:2104.09864), with `RopeScaling` applied.

In float32, each step rounded, as the models were trained. Without numpy, whose `power` gives other last bits on
other processors, and which takes longer to import than the rest of a start.
"""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from penstock.models.spec import ModelSpec, RopeScaling


def inverse_frequencies(spec: ModelSpec) -> list[float]:
    """Radians per position of each rotated pair, scaled as the model asks: head_dim / 2 float32 values."""
    frequencies = _frequencies(spec, spec.rope_theta)
    return frequencies if spec.rope_scaling is None else _scaled(frequencies, spec.rope_scaling)


def local_frequencies(spec: ModelSpec) -> list[float]:
    """The same of layers with a window; empty where those rotate as the others do."""
    return [] if spec.local_rope_theta is None else _frequencies(spec, spec.local_rope_theta)


def _frequencies(spec: ModelSpec, theta: float) -> list[float]:
    exponents = _float32(i / spec.head_dim for i in range(0, spec.head_dim, 2))
    (theta,) = _float32([theta])
    powers = _float32(theta**exponent for exponent in exponents)
    return _float32(1 / power for power in powers)


def _scaled(frequencies: Sequence[float], scaling: RopeScaling) -> list[float]:
    if scaling.kind == "linear":
        divisors = _float32([scaling.factor] * len(frequencies))
    elif scaling.kind == "factors":
        divisors = _float32(scaling.factors)
    else:
        divisors = _float32(_llama3_divisor(frequency, scaling) for frequency in frequencies)
    # A factor may be too small for float32; what it divides is then infinite.
    return _float32(f / d if d else math.inf for f, d in zip(frequencies, divisors, strict=True))


def _llama3_divisor(frequency: float, scaling: RopeScaling) -> float:
    """Llama 3.1's rule: keep short wavelengths, divide long ones by `factor`, blend between the two."""
    turns = frequency * (scaling.original_context / (2 * math.pi))
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = min(max(blend, 0.0), 1.0)
    return 1 / ((1 - blend) / scaling.factor + blend)


def _float32(values: Iterable[float]) -> list[float]:
    """Each value rounded to the nearest float32."""
    return array("f", values).tolist()
