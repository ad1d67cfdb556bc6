"""Writes ONNX models: as much of the format as a graph without control flow needs.

Specification: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, in protocol buffers' wire format
(https://protobuf.dev/programming-guides/encoding). Weights are named and described only; the session gets their bytes
from where they lie, so that they exist once.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

FLOAT, INT32 = 1, 6  # TensorProto.DataType
MICROSOFT = "com.microsoft"  # the domain of onnxruntime's fused operators

_IR_VERSION = 9
_OPSETS = (("", 17), (MICROSOFT, 1))
_VARINT, _BYTES, _FIXED32 = 0, 2, 5


class OnnxGraph:
    """A graph that grows node by node; `model` is the whole as bytes.

    Args:
        name: of the graph.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[bytes] = []
        self._initializers: list[bytes] = []
        self._inputs: list[bytes] = []
        self._outputs: list[bytes] = []

    def input(self, name: str, dtype: int, shape: Sequence[int | str]) -> None:
        """Declare an input; a dimension that differs from call to call has a name."""
        self._inputs.append(_message(11, _value(name, dtype, shape)))

    def output(self, name: str, dtype: int, shape: Sequence[int | str]) -> None:
        """Declare an output."""
        self._outputs.append(_message(12, _value(name, dtype, shape)))

    def weight(self, name: str, shape: Sequence[int]) -> None:
        """A float32 constant whose bytes the session is given under this name."""
        place = _text(1, "location") + _text(2, "given")
        tensor = b"".join(_number(1, size) for size in shape)
        tensor += _number(2, FLOAT) + _text(8, name) + _message(13, place) + _number(14, 1)  # 1: outside
        self._initializers.append(_message(5, tensor))

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        domain: str = "",
        **attributes: float,
    ) -> None:
        """An operator; an input that is left out has the name ""."""
        node = b"".join(_text(1, name) for name in inputs) + b"".join(_text(2, name) for name in outputs)
        node += _text(4, operator) + b"".join(_message(5, _attribute(*item)) for item in attributes.items())
        if domain:
            node += _text(7, domain)
        self._nodes.append(_message(1, node))

    def model(self) -> bytes:
        """The file's content."""
        graph = b"".join((*self._nodes, _text(2, self._name), *self._initializers, *self._inputs, *self._outputs))
        opsets = b"".join(_message(8, _text(1, domain) + _number(2, version)) for domain, version in _OPSETS)
        return _number(1, _IR_VERSION) + _text(2, "penstock") + _message(7, graph) + opsets


def _value(name: str, dtype: int, shape: Sequence[int | str]) -> bytes:
    sizes = b"".join(_message(1, _text(2, size) if isinstance(size, str) else _number(1, size)) for size in shape)
    return _text(1, name) + _message(2, _message(1, _number(1, dtype) + _message(2, sizes)))


def _attribute(name: str, value: float) -> bytes:
    if isinstance(value, int):
        return _text(1, name) + _number(3, value) + _number(20, 2)
    return _text(1, name) + _varint(2 << 3 | _FIXED32) + struct.pack("<f", value) + _number(20, 1)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())


def _message(field: int, body: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
