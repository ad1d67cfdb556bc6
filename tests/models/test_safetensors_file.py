"""The safetensors reader: files as they should be, and files made to break it."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.core.errors import ModelFileError, NotFoundError
from penstock.models.safetensors import SafetensorsFile
from support.safetensors_files import encode_safetensors, entry, store

if TYPE_CHECKING:
    from pathlib import Path

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float32)}


@pytest.mark.oracle
def test_file_of_the_reference_library_when_read_then_holds_the_same_tensors(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "model.safetensors"
    arrays = {"z": np.arange(6, dtype=np.float16).reshape(1, 2, 3), **ARRAYS, "scalar": np.array(1.5, np.float32)}
    save_file(arrays, path, metadata={"format": "pt"})
    with SafetensorsFile.open(path) as file:
        assert file.metadata == {"format": "pt"}
        assert file.tensors.keys() == arrays.keys()
        for name, array in arrays.items():
            assert file.tensors[name].shape == array.shape
            assert file.tensors[name].dtype == {"f2": "F16", "f4": "F32"}[array.dtype.str[1:]]
            assert bytes(file.data(name)) == array.tobytes()
            file.release_pages(name)
            assert bytes(file.data(name)) == array.tobytes()


def test_path_without_a_file_when_opened_then_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no file"):
        SafetensorsFile.open(tmp_path / "nowhere.safetensors")


GOOD = entry("F32", [1], 0, 4)


def one(tensor: object, data: bytes = bytes(4)) -> bytes:
    return encode_safetensors({"t": tensor}, data)


CASES = {
    "nothing": (b"", "is empty"),
    "three bytes": (b"\1\0\0", "has only 3 bytes"),
    "endless header": (encode_safetensors({}, header_size=2**64 - 1), "the header claims"),
    "header past the end": (encode_safetensors({}, header_size=3), "the header claims 3 bytes of a file of 10"),
    "no JSON": (encode_safetensors(b"{nonsense"), "isn't valid JSON"),
    "no text": (encode_safetensors(b'{"\xff": 1}'), "isn't valid JSON"),
    "a list": (encode_safetensors([]), "must be a JSON object"),
    "deep lists": (encode_safetensors(b'{"t":' + b"[" * 50_000 + b"]" * 50_000 + b"}"), "nested too deeply"),
    "deep objects": (encode_safetensors(b'{"t":' * 50_000 + b"1" + b"}" * 50_000), "nested too deeply"),
    "millions of values": (
        encode_safetensors(b'{"t":[' + b"[]," * 2_000_000 + b"[]]}"),
        "more than 2000000 JSON values",
    ),
    "a number of many digits": (encode_safetensors(b'{"t":' + b"9" * 10_000 + b"}"), "isn't valid JSON"),
    "tensor twice": (
        encode_safetensors(b'{"t":%b,"t":%b}' % ((json.dumps(GOOD).encode(),) * 2), bytes(4)),
        "'t' is there twice",
    ),
    "metadata of numbers": (encode_safetensors({"__metadata__": {"a": 1}}), "must map strings to strings"),
    "metadata of a list": (encode_safetensors({"__metadata__": []}), "must map strings to strings"),
    "tensor of null": (one(None), "must have a dtype"),
    "tensor without a shape": (one({"dtype": "F32", "data_offsets": [0, 4]}), "must have a dtype"),
    "tensor with more": (one(GOOD | {"more": 1}), "must have a dtype"),
    "unknown dtype": (one(GOOD | {"dtype": "F13"}), "unknown dtype 'F13'"),
    "dtype of a list": (one(GOOD | {"dtype": ["F32"]}), "unknown dtype"),
    "negative shape": (one(GOOD | {"shape": [-1, -1]}), "no valid shape"),
    "fractional shape": (one(GOOD | {"shape": [1.0]}), "no valid shape"),
    "shape of truth": (one(GOOD | {"shape": [True]}), "no valid shape"),
    "shape of text": (one(GOOD | {"shape": "1"}), "no valid shape"),
    "huge shape": (one(GOOD | {"shape": [2**63]}), "no valid shape"),
    "nine dimensions": (one(GOOD | {"shape": [1] * 9}), "no valid shape"),
    "product that wraps": (one(GOOD | {"shape": [2**62, 4, 1]}), "has 4 bytes, but F32 of shape"),
    "three offsets": (one(GOOD | {"data_offsets": [0, 4, 8]}), "no valid data_offsets"),
    "backward offsets": (one(GOOD | {"data_offsets": [4, 0]}), "has -4 bytes"),
    "too few bytes": (one(entry("F32", [2], 0, 4)), "has 4 bytes, but F32 of shape [2] takes 8"),
    "half a byte": (one(entry("F4", [7], 0, 4)), "but F4 of shape [7] takes 4"),
    "offsets past the end": (one(entry("F32", [2], 0, 8)), "but its tensors end at byte"),
    "bytes left over": (one(GOOD, bytes(5)), "but its tensors end at byte"),
    "a hole": (
        encode_safetensors({"a": GOOD, "b": entry("F32", [1], 8, 12)}, bytes(12)),
        "overlap or leave holes",
    ),
    "a hole at the start": (one(entry("F32", [1], 4, 8), bytes(8)), "overlap or leave holes"),
    "an overlap": (
        encode_safetensors({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, bytes(12)),
        "overlap or leave holes",
    ),
    "the same place twice": (encode_safetensors({"a": GOOD, "b": GOOD}, bytes(4)), "overlap or leave holes"),
}


@pytest.mark.parametrize("case", CASES)
def test_hostile_file_when_opened_then_is_refused_with_the_reason(tmp_path: Path, case: str) -> None:
    content, reason = CASES[case]
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError) as caught:
            SafetensorsFile.open(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reason in caught.value.message
    assert str(path) in caught.value.message
    assert len(caught.value.message) < 1000
    assert peak < 2**20 + 4 * len(content)


VALID = store(ARRAYS)
FUZZ = settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def open_or_refuse(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    start = time.process_time()
    tracemalloc.start()
    try:
        with SafetensorsFile.open(path) as file:
            for name, info in file.tensors.items():
                assert len(file.data(name)) == info.nbytes
    except ModelFileError as error:
        assert len(error.message) < 2000  # noqa: PT017
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2**20
    assert time.process_time() - start < 1.0


@FUZZ
@given(flips=st.lists(st.integers(0, len(VALID) * 8 - 1), min_size=1, max_size=8))
def test_valid_file_when_bits_flip_then_opens_or_is_refused(tmp_path: Path, flips: list[int]) -> None:
    content = bytearray(VALID)
    for bit in flips:
        content[bit // 8] ^= 1 << bit % 8
    open_or_refuse(tmp_path / "flipped.safetensors", bytes(content))


@FUZZ
@given(start=st.integers(0, len(VALID)), piece=st.binary(max_size=64), drop=st.integers(0, 64))
def test_valid_file_when_a_piece_is_replaced_then_opens_or_is_refused(
    tmp_path: Path, start: int, piece: bytes, drop: int
) -> None:
    open_or_refuse(tmp_path / "spliced.safetensors", VALID[:start] + piece + VALID[start + drop :])


def test_valid_file_when_cut_anywhere_then_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    for size in range(len(VALID)):
        path.write_bytes(VALID[:size])
        with pytest.raises(ModelFileError):
            SafetensorsFile.open(path)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@FUZZ
@given(
    tensor=st.fixed_dictionaries(
        {"dtype": st.sampled_from(["F32", "F4", 7]) | JSON_VALUES, "shape": JSON_VALUES, "data_offsets": JSON_VALUES}
    )
)
def test_any_json_in_a_tensor_s_place_when_opened_then_opens_or_is_refused(
    tmp_path: Path, tensor: dict[str, object]
) -> None:
    open_or_refuse(tmp_path / "json.safetensors", encode_safetensors({"t": tensor}, bytes(4)))
