"""Stored tensors back to float32: one function for each type.

Formats: ggml's block layouts (`block_q4_0` ... `block_q6_K`). A block is a run of elements of one row with
its own scale; a K-quant block is 256 elements in groups of 16 or 32, whose small integer scales are scaled
once more. The order of the floating-point operations is part of the result and is the reference's:
integers first, times the scale, plus (or minus) the minimum, each step rounded to float32.

Each function takes `blocks` uint8 [n, block bytes] and fills `out` float32 [n, block size]. Integers are
written into `out` at once and scaled in place, so that the temporaries are of the stored bytes' size, and
`dequantize_into` hands over pieces that stay in the processor's cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from penstock.core.errors import ModelFileError
from penstock.models.ggml_types import GGML_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Floats = NDArray[np.float32]

CHUNK_ELEMENTS = 1 << 17  # 512 KiB of float32: output and temporaries fit a core's L2


def dequantize(data: memoryview, dtype: str) -> Floats:
    """The elements stored in `data` as a new flat array. Raises ModelFileError as `dequantize_into` does."""
    decoder = _decoder(dtype)
    out = np.empty(len(data) // decoder.block_bytes * decoder.block_size, np.float32)
    dequantize_into(data, dtype, out)
    return out


def dequantize_into(data: memoryview, dtype: str, out: Floats) -> None:
    """Fill `out`, flat and contiguous, from whole blocks of `dtype` (a GGML name, such as "Q4_1").

    Infinite and NaN scales go through as they are stored. Raises ModelFileError if the type isn't
    supported.
    """
    decoder = _decoder(dtype)
    blocks = np.frombuffer(data, np.uint8).reshape(-1, decoder.block_bytes)
    target = out.reshape(len(blocks), decoder.block_size)
    step = CHUNK_ELEMENTS // decoder.block_size
    with np.errstate(all="ignore"):  # a hostile scale may overflow; the result says so itself
        for start in range(0, len(blocks), step):
            decoder.decode(blocks[start : start + step], target[start : start + step])


def _decoder(dtype: str) -> _Decoder:
    if dtype not in DECODERS:
        raise ModelFileError(f"Tensors stored as {dtype} aren't supported, only {', '.join(DECODERS)}.")
    return DECODERS[dtype]


def _f16(blocks: Bytes, start: int) -> Floats:
    """The half-precision number at byte `start` of each block, as float32 [n, 1]."""
    return blocks[:, start : start + 2].view("<f2").astype(np.float32)


def _f32(blocks: Bytes, out: Floats) -> None:
    out[:] = blocks.view("<f4")


def _half(blocks: Bytes, out: Floats) -> None:
    out[:] = blocks.view("<f2")


def _bf16(blocks: Bytes, out: Floats) -> None:
    bits = out.view(np.uint32)  # a bfloat16 is the upper half of a float32
    bits[:] = blocks.view("<u2")
    bits <<= 16


def _q4_0(blocks: Bytes, out: Floats) -> None:
    """f16 scale | 16 bytes of nibbles, the lower ones first; offset 8."""
    _write_nibbles(blocks[:, 2:], out)
    out -= 8
    out *= _f16(blocks, 0)


def _q4_1(blocks: Bytes, out: Floats) -> None:
    """f16 scale | f16 minimum | 16 bytes of nibbles."""
    _write_nibbles(blocks[:, 4:], out)
    out *= _f16(blocks, 0)
    out += _f16(blocks, 2)


def _q5_0(blocks: Bytes, out: Floats) -> None:
    """f16 scale | 32 fifth bits | 16 bytes of nibbles; offset 16."""
    _write_five_bits(blocks[:, 2:6], blocks[:, 6:], out)
    out -= 16
    out *= _f16(blocks, 0)


def _q5_1(blocks: Bytes, out: Floats) -> None:
    """f16 scale | f16 minimum | 32 fifth bits | 16 bytes of nibbles."""
    _write_five_bits(blocks[:, 4:8], blocks[:, 8:], out)
    out *= _f16(blocks, 0)
    out += _f16(blocks, 2)


def _q8_0(blocks: Bytes, out: Floats) -> None:
    """f16 scale | 32 signed bytes."""
    out[:] = blocks[:, 2:].view(np.int8)
    out *= _f16(blocks, 0)


def _write_nibbles(packed: Bytes, out: Floats) -> None:
    """[n, 16] bytes to [n, 32]: all the low nibbles, then all the high ones."""
    out[:, :16] = packed & 15
    out[:, 16:] = packed >> 4


def _write_five_bits(high: Bytes, packed: Bytes, out: Floats) -> None:
    """As `_write_nibbles`, bit j of the four `high` bytes being worth 16 in element j."""
    fifth = np.unpackbits(high, axis=1, bitorder="little")
    fifth <<= 4
    out[:, :16] = (packed & 15) | fifth[:, :16]
    out[:, 16:] = (packed >> 4) | fifth[:, 16:]


def _q2_k(blocks: Bytes, out: Floats) -> None:
    """16 bytes of 4-bit scale and minimum | 64 bytes of 2-bit values | f16 scale | f16 minimum."""
    scales, packed = blocks[:, :16], blocks[:, 16:80].reshape(-1, 2, 32)
    groups = out.reshape(-1, 2, 4, 32)
    for pair in range(4):
        groups[:, :, pair] = (packed >> 2 * pair) & 3
    _scale_groups(out, _f16(blocks, 80) * (scales & 15), _f16(blocks, 82) * (scales >> 4))


def _q3_k(blocks: Bytes, out: Floats) -> None:
    """32 bytes of third bits | 64 bytes of 2-bit values | 12 bytes of 6-bit scales | f16 scale; offset 4."""
    third, packed = blocks[:, :32], blocks[:, 32:96].reshape(-1, 2, 32)
    groups = out.reshape(-1, 2, 4, 32)
    for half in range(2):
        for pair in range(4):
            bit = (third >> (4 * half + pair)) & 1
            groups[:, half, pair] = ((packed[:, half] >> 2 * pair) & 3) | (bit << 2)
    out -= 4
    _scale_groups(out, _f16(blocks, 108) * _q3_k_scales(blocks[:, 96:108]))


def _q3_k_scales(packed: Bytes) -> Floats:
    """[n, 12] bytes to 16 signed scales: 8 bytes of nibbles, then 4 bytes of upper bit pairs; offset 32."""
    scales = np.empty((len(packed), 16), np.uint8)
    scales[:, :8] = packed[:, :8] & 15
    scales[:, 8:] = packed[:, :8] >> 4
    for quarter in range(4):
        scales[:, 4 * quarter : 4 * quarter + 4] |= ((packed[:, 8:] >> 2 * quarter) & 3) << 4
    return scales.astype(np.float32) - np.float32(32)


def _q4_k(blocks: Bytes, out: Floats) -> None:
    """f16 scale | f16 minimum | 12 bytes of 6-bit scales and minima | 128 bytes of nibbles."""
    packed = blocks[:, 16:].reshape(-1, 4, 32)
    groups = out.reshape(-1, 4, 2, 32)
    groups[:, :, 0] = packed & 15
    groups[:, :, 1] = packed >> 4
    scales, minima = _six_bit_pairs(blocks[:, 4:16])
    _scale_groups(out, _f16(blocks, 0) * scales, _f16(blocks, 2) * minima)


def _q5_k(blocks: Bytes, out: Floats) -> None:
    """As Q4_K, with 32 bytes of fifth bits before the nibbles: bit g belongs to group g."""
    fifth, packed = blocks[:, 16:48], blocks[:, 48:].reshape(-1, 4, 32)
    groups = out.reshape(-1, 8, 32)
    for group in range(8):
        nibbles = packed[:, group // 2] >> 4 if group % 2 else packed[:, group // 2] & 15
        groups[:, group] = nibbles | (((fifth >> group) & 1) << 4)
    scales, minima = _six_bit_pairs(blocks[:, 4:16])
    _scale_groups(out, _f16(blocks, 0) * scales, _f16(blocks, 2) * minima)


def _six_bit_pairs(packed: Bytes) -> tuple[Bytes, Bytes]:
    """[n, 12] bytes to 8 scales and 8 minima of 6 bits.

    Bytes 0..3 hold scales 0..3 and bytes 4..7 minima 0..3 in their lower six bits; bytes 8..11 the lower
    nibbles of scales and minima 4..7, whose upper two bits are the upper two of bytes 0..7.
    """
    first, last = packed[:, :8] & 63, packed[:, 8:]
    top = (packed[:, :8] >> 6) << 4
    scales = np.concatenate((first[:, :4], (last & 15) | top[:, :4]), axis=1)
    minima = np.concatenate((first[:, 4:], (last >> 4) | top[:, 4:]), axis=1)
    return scales, minima


def _q6_k(blocks: Bytes, out: Floats) -> None:
    """128 bytes of nibbles | 64 bytes of upper bit pairs | 16 signed scales | f16 scale; offset 32."""
    packed = blocks[:, :128].reshape(-1, 2, 2, 32)
    upper = blocks[:, 128:192].reshape(-1, 2, 32)
    groups = out.reshape(-1, 2, 4, 32)
    for quarter in range(4):
        source = packed[:, :, quarter % 2]
        nibbles = source >> 4 if quarter >= 2 else source & 15
        groups[:, :, quarter] = nibbles | (((upper >> 2 * quarter) & 3) << 4)
    out -= 32
    _scale_groups(out, _f16(blocks, 208) * blocks[:, 192:208].view(np.int8))


def _scale_groups(out: Floats, scales: Floats, minima: Floats | None = None) -> None:
    """out * scales - minima, where each of `scales` and `minima` [n, groups] serves one group of the block."""
    groups = out.reshape(*scales.shape, -1)
    groups *= scales[:, :, None]
    if minima is not None:
        groups -= minima[:, :, None]


@dataclass(frozen=True, slots=True)
class _Decoder:
    block_size: int
    block_bytes: int
    decode: Callable[[Bytes, Floats], None]


_FUNCTIONS: dict[str, Callable[[Bytes, Floats], None]] = {
    "F32": _f32,
    "F16": _half,
    "BF16": _bf16,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
_TYPES = {kind.name: kind for kind in GGML_TYPES.values()}
DECODERS: dict[str, _Decoder] = {
    name: _Decoder(_TYPES[name].block_size, _TYPES[name].block_bytes, function) for name, function in _FUNCTIONS.items()
}
