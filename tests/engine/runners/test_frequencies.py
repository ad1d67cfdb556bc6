"""Rotary frequencies: the formulas in exact-enough arithmetic, and what float32 leaves of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from penstock.engine.runners.frequencies import inverse_frequencies
from penstock.models.spec import RopeScaling
from support.gguf_files import tiny_spec

LLAMA3 = RopeScaling("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)


def frequencies(scaling: RopeScaling | None = None) -> list[float]:
    return inverse_frequencies(tiny_spec(head_dim=64, rope_theta=500000.0, rope_scaling=scaling))


def test_frequencies_are_the_powers_of_theta_as_float32() -> None:
    exact = [500000.0 ** -(i / 64) for i in range(0, 64, 2)]
    assert frequencies() == pytest.approx(exact, rel=1e-6)
    assert frequencies() == np.array(frequencies(), np.float32).tolist()


def test_a_linear_factor_divides_all_and_single_factors_each_its_own() -> None:
    plain = frequencies()
    assert frequencies(RopeScaling("linear", factor=4.0)) == [frequency / 4 for frequency in plain]
    own = tuple(2.0**i for i in range(32))
    assert frequencies(RopeScaling("factors", factors=own)) == [f / d for f, d in zip(plain, own, strict=True)]


def test_a_factor_too_small_for_float32_gives_infinities_not_an_error() -> None:
    assert set(frequencies(RopeScaling("linear", factor=1e-60))) == {math.inf}


def test_llama3_keeps_short_waves_divides_long_ones_and_blends_between() -> None:
    for plain, scaled in zip(frequencies(), frequencies(LLAMA3), strict=True):
        wavelength = 2 * math.pi / plain
        if wavelength < 8192 / 4:
            assert scaled == plain
        elif wavelength > 8192:
            assert scaled == plain / 8
        else:
            assert plain / 8 < scaled < plain
