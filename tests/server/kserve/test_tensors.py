"""Tensors on the wire: what goes in comes out, and what can't be is refused by name."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.errors import InvalidRequestError
from penstock.server.kserve.tensors import (
    MAX_RANK,
    Tensor,
    count_elements,
    from_binary,
    from_json,
    from_values,
    to_binary,
    to_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable

INTEGERS = {
    "INT32": (-(2**31), 2**31 - 1),
    "INT64": (-(2**63), 2**63 - 1),
    "UINT32": (0, 2**32 - 1),
    "UINT64": (0, 2**64 - 1),
}
SIZES = {"BOOL": 1, "INT32": 4, "UINT32": 4, "FP32": 4, "INT64": 8, "UINT64": 8, "FP64": 8}
ELEMENTS: dict[str, st.SearchStrategy[Any]] = {
    "BOOL": st.booleans(),
    "FP32": st.floats(width=32, allow_nan=False),
    "FP64": st.floats(allow_nan=False),
    "BYTES": st.text(max_size=20).map(str.encode),
    **{name: st.integers(*bounds) for name, bounds in INTEGERS.items()},
}


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    datatype = draw(st.sampled_from(sorted(ELEMENTS)))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    count = math.prod(shape)
    values = draw(st.lists(ELEMENTS[datatype], min_size=count, max_size=count))
    return Tensor("t", datatype, shape, values)


def attempted(read: Callable[..., Tensor], *arguments: Any) -> Tensor | None:
    """What was read; None if it was refused, which must be with the tensor's name."""
    try:
        return read("t", *arguments)
    except InvalidRequestError as error:
        about = (error.param, error.code)
    assert about == ("t", "invalid_tensor")
    return None


@given(tensors())
def test_given_any_tensor_when_it_is_written_in_binary_and_read_then_it_is_the_same(tensor: Tensor) -> None:
    assert from_binary("t", tensor.datatype, tensor.shape, to_binary(tensor)) == tensor


@given(tensors())
def test_given_any_tensor_when_it_is_written_in_json_and_read_flat_or_nested_then_it_is_the_same(
    tensor: Tensor,
) -> None:
    flat: list[Any] = to_json(tensor)
    assert from_json("t", tensor.datatype, tensor.shape, flat) == tensor
    if flat:
        nested = flat
        for size in reversed(tensor.shape[1:]):
            nested = [nested[at : at + size] for at in range(0, len(nested), size)]
        assert from_json("t", tensor.datatype, tensor.shape, nested) == tensor


@given(
    datatype=st.one_of(st.sampled_from(sorted(ELEMENTS)), st.text(max_size=8)),
    shape=st.lists(st.integers(-2, 6) | st.integers(), max_size=MAX_RANK + 2),
    raw=st.binary(max_size=80),
)
def test_given_any_bytes_and_shape_when_read_then_a_tensor_of_that_shape_or_a_refusal(
    datatype: str, shape: list[int], raw: bytes
) -> None:
    tensor = attempted(from_binary, datatype, shape, raw)
    if tensor is not None:
        assert len(tensor.values) == math.prod(shape)
        if datatype == "BYTES":
            assert to_binary(tensor) == raw


@given(tensor=tensors(), cut=st.integers(1, 8), extra=st.binary(min_size=1, max_size=9))
def test_given_data_of_the_wrong_length_when_read_then_it_is_refused(tensor: Tensor, cut: int, extra: bytes) -> None:
    raw = to_binary(tensor)
    if raw:
        with pytest.raises(InvalidRequestError):
            from_binary("t", tensor.datatype, tensor.shape, raw[:-cut])
    with pytest.raises(InvalidRequestError):
        from_binary("t", tensor.datatype, tensor.shape, raw + extra)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
)


@given(st.lists(JSON, max_size=4), st.sampled_from(sorted(ELEMENTS)), st.lists(st.integers(0, 3), max_size=3))
def test_given_any_json_when_read_as_elements_then_a_tensor_or_a_refusal(
    data: list[Any], datatype: str, shape: list[int]
) -> None:
    tensor = attempted(from_json, datatype, shape, data)
    if tensor is not None:
        assert len(tensor.values) == math.prod(shape)
        to_binary(tensor)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ([-1], "can't be -1"),
        ([2, -3], "can't be -3"),
        ([2**63], "can't be 9223372036854775808"),
        ([1] * (MAX_RANK + 1), "9 dimensions"),
        ([10**5000], "very large"),
    ],
)
def test_given_a_shape_that_cannot_be_when_counted_then_the_dimension_is_named(shape: list[int], said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        count_elements("t", shape)


def test_given_a_huge_shape_when_read_then_it_is_refused_without_making_room_for_it() -> None:
    with pytest.raises(InvalidRequestError, match="0 bytes of data"):
        from_binary("t", "FP32", [2**62, 2**62], b"")
    with pytest.raises(InvalidRequestError, match="0 elements"):
        from_binary("t", "BYTES", [2**62], b"")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (struct.pack("<I", 5) + b"abc", "ends within element 0: it is 5 bytes long, and 3 are left"),
        (b"\x01\x00", "ends within the length of element 0"),
        (struct.pack("<I", 2**32 - 1), "4294967295 bytes long, and 0 are left"),
        (2 * struct.pack("<I", 0), "goes on for 4 bytes after its 1 elements"),
        (b"", "has 0 elements of data"),
    ],
)
def test_given_strings_whose_lengths_disagree_with_the_bytes_when_read_then_the_place_is_named(
    raw: bytes, said: str
) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        from_binary("t", "BYTES", [1], raw)


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("INT32", 2**31),
        ("INT32", 1.0),
        ("INT32", True),
        ("UINT32", -1),
        ("UINT64", 2**64),
        ("FP32", 1e39),
        ("FP64", 10**400),
        ("FP32", "1"),
        ("BOOL", 2),
        ("BOOL", "true"),
        ("BYTES", 1),
        ("FP8", 1),
    ],
)
def test_given_an_element_of_another_kind_when_read_then_it_is_refused(datatype: str, value: object) -> None:
    with pytest.raises(InvalidRequestError, match="'t'"):
        from_values("t", datatype, [1], [value])
