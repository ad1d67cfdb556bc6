"""Every supported GGUF type against the `gguf` library, bit for bit."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize as reference_dequantize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penstock.models.dequantize import CHUNK_ELEMENTS, DECODERS, dequantize
from penstock.models.ggml_types import SUPPORTED_TYPES

pytestmark = pytest.mark.oracle

# Where each format keeps its half-precision numbers.
HALVES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
# zeros, subnormals, the smallest and largest normals, infinities, quiet and signalling NaNs, of both signs
ADVERSARIAL_HALVES = np.array(
    [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0x7D01, 0xFE00],
    dtype="<u2",
)


def reference(data: np.ndarray, dtype: str) -> np.ndarray:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return np.ascontiguousarray(reference_dequantize(data, GGMLQuantizationType[dtype])).reshape(-1)


def assert_same_bits(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == theirs.dtype == np.float32
    # NaNs match as NaNs: which payload survives an operation on two of them is the processor's affair.
    same = (ours.view(np.uint32) == theirs.view(np.uint32)) | (np.isnan(ours) & np.isnan(theirs))
    assert same.all(), f"first difference at element {np.argmin(same)}"


def block_bytes(dtype: str) -> int:
    return GGML_QUANT_SIZES[GGMLQuantizationType[dtype]][1]


def test_every_type_of_the_issue_is_supported() -> None:
    assert set(DECODERS) == {*SUPPORTED_TYPES} == {"F32", "F16", "BF16", *HALVES}


@pytest.mark.parametrize("dtype", DECODERS)
def test_random_bytes_when_dequantized_then_equal_the_reference(dtype: str) -> None:
    # Scales are random too, so infinities and NaNs are among them; more than one chunk, and not a whole one.
    blocks = CHUNK_ELEMENTS // GGML_QUANT_SIZES[GGMLQuantizationType[dtype]][0] + 777
    data = np.random.default_rng(1).integers(0, 256, blocks * block_bytes(dtype), dtype=np.uint8)
    assert_same_bits(dequantize(memoryview(data), dtype), reference(data, dtype))


@pytest.mark.parametrize("dtype", HALVES)
def test_adversarial_scales_when_dequantized_then_equal_the_reference(dtype: str) -> None:
    pairs = [(a, b) for a in ADVERSARIAL_HALVES for b in ADVERSARIAL_HALVES]
    data = np.random.default_rng(2).integers(0, 256, (len(pairs), block_bytes(dtype)), dtype=np.uint8)
    for position, offset in enumerate(HALVES[dtype]):
        data[:, offset : offset + 2] = np.array([p[position] for p in pairs], "<u2").view(np.uint8).reshape(-1, 2)
    assert_same_bits(dequantize(memoryview(data.reshape(-1)), dtype), reference(data.reshape(-1), dtype))


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_half_precision_number_when_widened_then_equals_the_reference(dtype: str) -> None:
    data = np.arange(1 << 16, dtype="<u2").view(np.uint8)
    assert_same_bits(dequantize(memoryview(data), dtype), reference(data, dtype))


@pytest.mark.parametrize("dtype", HALVES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_single_block_when_dequantized_then_equals_the_reference(dtype: str, data: st.DataObject) -> None:
    block = data.draw(hnp.arrays(np.uint8, block_bytes(dtype)))
    assert_same_bits(dequantize(memoryview(block), dtype), reference(block, dtype))
