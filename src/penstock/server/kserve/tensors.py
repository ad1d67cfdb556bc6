"""Tensors between their two forms on the wire and Python values, in row-major order.

Binary: numbers are little-endian and without padding, a BYTES element is its length in four bytes and then itself
(https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md). Typed: numbers,
booleans and strings as JSON or protobuf have them.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

Value = bool | int | float | bytes

MAX_RANK = 8
_LENGTH = struct.Struct("<I")
_CODES = {"BOOL": "?", "INT32": "i", "INT64": "q", "UINT32": "I", "UINT64": "Q", "FP32": "f", "FP64": "d"}
_RANGES = {
    "INT32": (-(2**31), 2**31 - 1),
    "INT64": (-(2**63), 2**63 - 1),
    "UINT32": (0, 2**32 - 1),
    "UINT64": (0, 2**64 - 1),
}
_LARGEST_FP32 = (2 - 2**-23) * 2.0**127


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named array; `values` are its elements, flattened, as many as the shape says."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: list[Value]


def invalid(name: str, problem: str) -> InvalidRequestError:
    """An error about one tensor; `problem` goes on after its name."""
    return InvalidRequestError(f"The tensor {name[:256]!r} {problem}", param=name[:256], code="invalid_tensor")


def count_elements(name: str, shape: Sequence[int]) -> int:
    """How many elements a shape has. Raises InvalidRequestError for one that can't be."""
    if len(shape) > MAX_RANK:
        raise invalid(name, f"has {len(shape)} dimensions; at most {MAX_RANK} are taken.")
    for dimension in shape:
        if not 0 <= dimension <= 2**63 - 1:
            raise invalid(name, f"has the shape {_short(shape)}; a dimension can't be {_short(dimension)}.")
    return math.prod(shape)


def from_binary(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> Tensor:
    """A tensor from its bytes, which must be exactly those of its shape. Raises InvalidRequestError."""
    count = count_elements(name, shape)
    if datatype == "BYTES":
        return Tensor(name, datatype, tuple(shape), _split(name, shape, count, raw))
    code = _code(name, datatype)
    needed = count * struct.calcsize(f"<{code}")
    if len(raw) != needed:
        raise invalid(
            name,
            f"has {len(raw)} bytes of data; {datatype} of the shape {_short(shape)} is {_short(needed)} bytes.",
        )
    return Tensor(name, datatype, tuple(shape), list(struct.unpack(f"<{count}{code}", raw)))


def from_values(name: str, datatype: str, shape: Sequence[int], values: Sequence[object]) -> Tensor:
    """A tensor from its elements; text stands for its UTF-8. Raises InvalidRequestError for one that doesn't fit."""
    count = count_elements(name, shape)
    if len(values) != count:
        raise invalid(name, f"has {len(values)} elements; the shape {_short(shape)} has {_short(count)}.")
    return Tensor(name, datatype, tuple(shape), [_element(name, datatype, value) for value in values])


def from_json(name: str, datatype: str, shape: Sequence[int], data: Sequence[object]) -> Tensor:
    """As `from_values`, from JSON, where the elements may also be nested as the shape is."""
    flat: Sequence[object] = data
    for _ in range(MAX_RANK - 1):
        if not any(isinstance(item, list) for item in flat):
            break
        if not all(isinstance(item, list) for item in flat):
            raise invalid(name, "mixes elements and lists of them.")
        flat = [value for item in flat if isinstance(item, list) for value in item]
    return from_values(name, datatype, shape, flat)


def to_binary(tensor: Tensor) -> bytes:
    """The tensor's bytes."""
    if tensor.datatype == "BYTES":
        parts = [value for value in tensor.values if isinstance(value, bytes)]
        return b"".join(piece for part in parts for piece in (_LENGTH.pack(len(part)), part))
    return struct.pack(f"<{len(tensor.values)}{_CODES[tensor.datatype]}", *tensor.values)


def to_json(tensor: Tensor) -> list[bool | int | float | str]:
    """The tensor's elements for JSON. Those of BYTES are text: every one that this server makes is."""
    return [value.decode() if isinstance(value, bytes) else value for value in tensor.values]


def _split(name: str, shape: Sequence[int], count: int, raw: bytes) -> list[Value]:
    parts: list[Value] = []
    at = 0
    while at < len(raw):
        if len(parts) == count:
            raise invalid(name, f"goes on for {len(raw) - at} bytes after its {_short(count)} elements.")
        if len(raw) - at < _LENGTH.size:
            raise invalid(name, f"ends within the length of element {len(parts)}.")
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        if length > len(raw) - at:
            raise invalid(
                name, f"ends within element {len(parts)}: it is {length} bytes long, and {len(raw) - at} are left."
            )
        parts.append(raw[at : at + length])
        at += length
    if len(parts) != count:
        raise invalid(name, f"has {len(parts)} elements of data; the shape {_short(shape)} has {_short(count)}.")
    return parts


def _code(name: str, datatype: str) -> str:
    if datatype not in _CODES:
        raise invalid(name, f"has the datatype {datatype[:64]!r}, which nothing here takes.")
    return _CODES[datatype]


def _element(name: str, datatype: str, value: object) -> Value:
    match datatype:
        case "BYTES" if isinstance(value, bytes):
            return value
        case "BYTES" if isinstance(value, str):
            return value.encode()
        case "BOOL" if isinstance(value, bool) or value in (0, 1):
            return bool(value)
        case "FP32" | "FP64" if isinstance(value, int | float) and not isinstance(value, bool):
            return _float(name, datatype, value)
        case "INT32" | "INT64" | "UINT32" | "UINT64" if isinstance(value, int) and not isinstance(value, bool):
            low, high = _RANGES[datatype]
            if low <= value <= high:
                return value
            raise invalid(name, f"holds {_short(value)}, which is not within {datatype}.")
    if datatype != "BYTES":
        _code(name, datatype)
    raise invalid(name, f"holds {_short(value)}, which is not {datatype}.")


def _float(name: str, datatype: str, value: float) -> float:
    try:
        number = float(value)
    except OverflowError:  # a whole number may be of any size
        number = math.nan
    if math.isnan(number) or (datatype == "FP32" and _LARGEST_FP32 < abs(number) < math.inf):
        raise invalid(name, f"holds {_short(value)}, which is not within {datatype}.")
    return number


def _short(value: object) -> str:
    try:
        text = repr(list(value) if isinstance(value, tuple) else value)
    except ValueError:  # an int of more digits than Python writes out
        return "a very large number"
    return text if len(text) <= 64 else text[:61] + "..."
