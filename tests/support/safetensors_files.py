"""Writes safetensors files for tests, true ones and ones with a lie in the header."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np


def encode_safetensors(header: Any, data: bytes = b"", *, header_size: int | None = None) -> bytes:
    """`header` is JSON text, or made into it; its size is the true one unless given."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if header_size is None else header_size
    return size.to_bytes(8, "little") + text + data


def entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def store(tensors: Mapping[str, np.ndarray], dtype: str = "F32") -> bytes:
    """Float32 arrays as F32, F16 or BF16 (cut off, not rounded)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in tensors.items():
        stored = _encode(array, dtype)
        header[name] = entry(dtype, list(array.shape), len(data), len(data) + len(stored))
        data += stored
    return encode_safetensors(header, data)


def _encode(array: np.ndarray, dtype: str) -> bytes:
    if dtype == "BF16":
        return (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return array.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()
