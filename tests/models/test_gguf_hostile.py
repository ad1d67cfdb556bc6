"""The GGUF reader on files made to break it: refused with the reason, at no cost to speak of."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.core.errors import ModelFileError
from penstock.models.gguf import GGUFFile
from support import gguf_files as g

if TYPE_CHECKING:
    from pathlib import Path

ROW = np.ones(32, np.float32)


def header(key_count: int = 0, tensor_count: int = 0, body: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensor_count, key_count) + body


def array_header(element: int, count: int) -> bytes:
    return header(1, 0, g.string("key") + struct.pack("<IIQ", g.ARRAY, element, count))


def with_tensor(shape: tuple[int, ...], type_number: int = 0, data: bytes = bytes(128), **fields: object) -> bytes:
    return g.encode_gguf({}, [g.Tensor("t", shape, type_number, data, **fields)])


def with_alignment(value: object) -> bytes:
    return g.encode_gguf({"general.alignment": value}, [g.tensor("t", ROW)])


HUGE = 2**64 - 1
CASES = {
    "nothing": (b"", "is empty"),
    "three bytes": (b"GGU", "only 3 are left"),
    "another format": (b"PK\3\4" + bytes(64), "isn't a GGUF file"),
    "no version": (b"GGUF", "the version"),
    "version 1": (b"GGUF" + struct.pack("<I", 1) + bytes(64), "version 1 isn't supported"),
    "a later version": (b"GGUF" + struct.pack("<I", 4) + bytes(64), "version 4 isn't supported"),
    "big-endian": (b"GGUF" + struct.pack(">I", 3) + bytes(64), "big-endian"),
    "huge tensor count": (header(0, HUGE), f"claims {HUGE} tensors"),
    "huge key count": (header(HUGE), f"claims {HUGE} metadata keys"),
    "more keys than bytes": (header(100), "claims 100 metadata keys"),
    "more tensors than bytes": (header(0, 5, bytes(100)), "claims 5 tensors"),
    "endless key": (header(1, 0, struct.pack("<Q", HUGE) + bytes(64)), "a metadata key is"),
    "key past the end": (header(1, 0, struct.pack("<Q", 500) + bytes(64)), "only 64 are left"),
    "key that is no text": (header(1, 0, g.string(b"\xff\xfe") + struct.pack("<II", g.U32, 1)), "isn't valid UTF-8"),
    "endless value": (header(1, 0, g.string("key") + struct.pack("<IQ", g.STRING, HUGE)), "the value of 'key'"),
    "value that is no text": (g.encode_gguf({"key": g.Value(g.STRING, b"\xff")}), "isn't valid UTF-8"),
    "value cut off": (header(1, 0, g.string("key") + struct.pack("<I", g.U64) + bytes(4)), "the value of 'key'"),
    "unknown value type": (header(1, 0, g.string("key") + struct.pack("<II", 13, 0)), "unknown value type 13"),
    "bool of 2": (g.encode_gguf({"key": g.Value(g.BOOL, 2)}), "bool of value 2"),
    "key twice": (header(2, 0, 2 * (g.string("key") + g.encode_value(7))), "'key' is there twice"),
    "huge number array": (array_header(g.F64, HUGE), "the array 'key'"),
    "huge string array": (array_header(g.STRING, HUGE), f"claims {HUGE} strings"),
    "string array past the end": (array_header(g.STRING, 2) + g.string("a") + struct.pack("<Q", HUGE), "past the end"),
    "string array cut off": (array_header(g.STRING, 2) + g.string("abcdefgh"), "past the end"),
    "array of arrays": (array_header(g.ARRAY, 1) + struct.pack("<IQ", g.U8, 0), "array of arrays"),
    "unknown element type": (array_header(99, 0), "unknown element type 99"),
    "alignment 0": (with_alignment(0), "alignment isn't a power of two"),
    "alignment 24": (with_alignment(24), "alignment isn't a power of two"),
    "alignment 2^31": (with_alignment(2**31), "alignment isn't a power of two"),
    "alignment of text": (with_alignment("32"), "alignment isn't a power of two"),
    "alignment of many": (with_alignment([32, 32]), "alignment isn't a power of two"),
    "tensor twice": (g.encode_gguf({}, [g.tensor("t", ROW), g.tensor("t", ROW)]), "tensor 't' is there twice"),
    "no dimensions": (with_tensor(()), "has 0 dimensions"),
    "five dimensions": (with_tensor((1, 1, 1, 1, 32)), "has 5 dimensions"),
    "a dimension of 0": (with_tensor((0, 32)), "has the shape"),
    "product of 2^256": (with_tensor((2**63,) * 4), "ends at byte"),
    "product that wraps to 0": (with_tensor((2**32, 2**32)), "ends at byte"),
    "product that wraps to its size": (with_tensor((2**62 + 8, 4)), "ends at byte"),
    "data cut off": (with_tensor((4, 32)), "ends at byte"),
    "half a block": (with_tensor((2, 48), g.TYPES["Q4_0"][0]), "whole blocks of 32"),
    "unknown type": (with_tensor((32,), 4096), "unknown type 4096"),
    "withdrawn type": (with_tensor((32,), 4), "Q4_2, a type that GGUF has withdrawn"),
    "misaligned": (with_tensor((32,), data=bytes(256), offset=8), "not a multiple of 32"),
    "offset past the end": (with_tensor((32,), offset=2**63), "ends at byte"),
    "overlap": (
        g.encode_gguf({}, [g.tensor("a", ROW), g.Tensor("b", (32,), 0, bytes(128), offset=96)]),
        "'a' and 'b' overlap",
    ),
    "the same place twice": (
        g.encode_gguf({}, [g.tensor("a", ROW), g.Tensor("b", (32,), 0, bytes(128), offset=0)]),
        "overlap",
    ),
    "a name of 2 KB": (g.encode_gguf({}, [g.tensor("n" * 2048, ROW)]), "a tensor's name is 2048 bytes"),
    "a name that is no text": (g.encode_gguf({}, [g.Tensor(b"\xff", (32,), 0, bytes(128))]), "isn't valid UTF-8"),
}


@pytest.mark.parametrize("case", CASES)
def test_hostile_header_when_opened_then_is_refused_with_the_reason_and_without_memory(
    tmp_path: Path, case: str
) -> None:
    content, reason = CASES[case]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError) as caught:
            GGUFFile.open(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reason in caught.value.message
    assert str(path) in caught.value.message
    assert len(caught.value.message) < 1000
    assert peak < 2**20


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_something_that_is_no_file_when_opened_then_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.gguf"
    path.mkdir() if kind == "directory" else os.mkfifo(path)
    with pytest.raises(ModelFileError, match="not a regular file"):
        GGUFFile.open(path)


VALID = g.encode_gguf(
    {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "tokens": ["a", "bc", "漢字"],
        "scores": [0.5, -1.0],
        "flag": True,
        "general.alignment": 32,
    },
    [
        g.tensor("m", np.ones((3, 32), np.float32)),
        g.Tensor("q", (2, 64), g.TYPES["Q4_1"][0], g.random_blocks(128, "Q4_1", seed=1)),
        g.tensor("v", ROW),
    ],
)


def open_or_refuse(path: Path, content: bytes) -> None:
    """Read everything there is, or be refused: nothing else may happen, quickly and in little memory."""
    path.write_bytes(content)
    start = time.process_time()
    tracemalloc.start()
    try:
        with GGUFFile.open(path) as file:
            dict(file.metadata)
            for name, info in file.tensors.items():
                assert len(file.data(name)) == info.nbytes
    except ModelFileError as error:
        assert len(error.message) < 2000  # noqa: PT017
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2**20
    assert time.process_time() - start < 1.0


FUZZ = settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FUZZ
@given(flips=st.lists(st.integers(0, len(VALID) * 8 - 1), min_size=1, max_size=8))
def test_valid_file_when_bits_flip_then_opens_or_is_refused(tmp_path: Path, flips: list[int]) -> None:
    content = bytearray(VALID)
    for bit in flips:
        content[bit // 8] ^= 1 << bit % 8
    open_or_refuse(tmp_path / "flipped.gguf", bytes(content))


def test_valid_file_when_any_one_header_byte_is_extreme_then_opens_or_is_refused(tmp_path: Path) -> None:
    for position in range(4, len(VALID) - 700):
        for value in (0, 0x7F, 0xFF):
            open_or_refuse(tmp_path / "extreme.gguf", VALID[:position] + bytes([value]) + VALID[position + 1 :])


def test_valid_file_when_cut_anywhere_then_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    for size in range(len(VALID)):
        path.write_bytes(VALID[:size])
        with pytest.raises(ModelFileError):
            GGUFFile.open(path).close()


@FUZZ
@given(content=st.binary(max_size=400))
def test_random_bytes_after_a_valid_start_then_open_or_are_refused(tmp_path: Path, content: bytes) -> None:
    open_or_refuse(tmp_path / "random.gguf", b"GGUF" + struct.pack("<I", 3) + content)


@FUZZ
@given(start=st.integers(0, len(VALID)), piece=st.binary(max_size=64), drop=st.integers(0, 64))
def test_valid_file_when_a_piece_is_replaced_then_opens_or_is_refused(
    tmp_path: Path, start: int, piece: bytes, drop: int
) -> None:
    open_or_refuse(tmp_path / "spliced.gguf", VALID[:start] + piece + VALID[start + drop :])
