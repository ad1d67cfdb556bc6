"""Reads safetensors files: where each tensor lies.

Specification: https://huggingface.co/docs/safetensors

    header size u64, little-endian | header, a JSON object | tensor data
    header: {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [start, stop]}, "__metadata__": {...}}

Offsets count from the end of the header. As in the reference implementation the tensors must fill the rest
of the file exactly, without holes or overlaps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from penstock.core.errors import ModelFileError
from penstock.models.mapped_file import MappedTensors
from penstock.models.spec import TensorInfo
from penstock.models.strict_json import parse_object

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from penstock.models.mapped_file import MappedFile

MAX_HEADER_BYTES = 100_000_000  # the reference implementation's limit
MAX_DIMS = 8

# Bits of one element. All published types are listed, so that one that isn't supported is refused by name.
DTYPE_BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "F8_E4M3": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
    "C64": 64,
    "I64": 64,
    "I32": 32,
    "I16": 16,
    "I8": 8,
    "U64": 64,
    "U32": 32,
    "U16": 16,
    "U8": 8,
    "BOOL": 8,
}

DAMAGED = "The file is damaged or was cut short: download it again."


class SafetensorsFile(MappedTensors):
    """One safetensors file, memory-mapped. Shapes are slowest dimension first."""

    def __init__(self, file: MappedFile) -> None:
        super().__init__(file)
        header_stop = _header_stop(file)
        header = parse_object(bytes(file.view(8, header_stop)), f"{file.path}: the header")
        self.metadata: Mapping[str, str] = _metadata(file.path, header.pop("__metadata__", {}))
        self.tensors: Mapping[str, TensorInfo] = {
            name: _tensor_info(file.path, name, entry) for name, entry in header.items()
        }
        self._extents = _extents(file, header_stop, header, self.tensors)

    def _extent(self, name: str) -> tuple[int, int]:
        return self._extents[name]


def _header_stop(file: MappedFile) -> int:
    """Where the header ends, after checking that it is there."""
    if file.size < 8:
        raise ModelFileError(f"{file.path} has only {file.size} bytes. {DAMAGED}")
    size = int.from_bytes(file.view(0, 8), "little")
    if size > min(MAX_HEADER_BYTES, file.size - 8):
        raise ModelFileError(
            f"{file.path}: the header claims {size} bytes of a file of {file.size} "
            f"(limit {MAX_HEADER_BYTES}). This isn't a safetensors file, or it is damaged: download it again."
        )
    return 8 + size


def _metadata(path: Path, metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelFileError(f"{path}: __metadata__ must map strings to strings. {DAMAGED}")
    return metadata


def _tensor_info(path: Path, name: str, entry: Any) -> TensorInfo:
    where = f"{path}: the tensor {name[:200]!r}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ModelFileError(f"{where} must have a dtype, a shape and data_offsets. {DAMAGED}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise ModelFileError(f"{where} has the unknown dtype {str(dtype)[:50]!r}. {DAMAGED}")
    if not _is_naturals(shape) or len(shape) > MAX_DIMS:
        raise ModelFileError(f"{where} has no valid shape. {DAMAGED}")
    if not _is_naturals(offsets) or len(offsets) != 2:
        raise ModelFileError(f"{where} has no valid data_offsets. {DAMAGED}")
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    nbytes = offsets[1] - offsets[0]
    if bits != nbytes * 8:
        raise ModelFileError(
            f"{where} has {nbytes} bytes, but {dtype} of shape {shape} takes {-(-bits // 8)}. {DAMAGED}"
        )
    return TensorInfo(name, tuple(shape), dtype, nbytes)


def _is_naturals(values: Any) -> bool:
    """A list of integers from 0 to 2^63 - 1 (True and False are no integers here)."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _extents(
    file: MappedFile, base: int, header: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> dict[str, tuple[int, int]]:
    """Start and stop of each tensor in the file, which together must cover everything after the header."""
    extents = {}
    position = base
    for name in sorted(tensors, key=lambda name: header[name]["data_offsets"]):
        start, stop = (base + offset for offset in header[name]["data_offsets"])
        if start != position:
            raise ModelFileError(
                f"{file.path}: the tensor {name[:200]!r} starts at byte {start}, where {position} was due: "
                f"tensors overlap or leave holes. {DAMAGED}"
            )
        extents[name] = (start, stop)
        position = stop
    if position != file.size:
        raise ModelFileError(f"{file.path} has {file.size} bytes, but its tensors end at byte {position}. {DAMAGED}")
    return extents
