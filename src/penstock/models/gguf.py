"""Reads GGUF files (versions 2 and 3, little-endian): metadata, and where each tensor lies.

Specification: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

    magic "GGUF" | version u32 | tensor count u64 | key count u64
    key count    x ( key string | value type u32 | value )
    tensor count x ( name string | n_dims u32 | dims u64[n_dims], fastest first | type u32 | offset u64 )
    padding to the alignment | tensor data

The header is read as if an enemy had written it: every count and length is checked against the bytes that
are really there before anything is made of it. Arrays are stepped over at first and decoded when asked
for: the vocabulary is most of a header, and few readers want it.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock._native import end_of_strings, read_strings
from penstock.core.errors import ModelFileError
from penstock.models.ggml_types import GGML_TYPES, WITHDRAWN_TYPES, GGMLType
from penstock.models.mapped_file import MappedTensors
from penstock.models.spec import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.models.mapped_file import MappedFile

BOOL, STRING, ARRAY = 7, 8, 9
# Value types of fixed size, by number: their codes in `struct` and `array`.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", BOOL: "B", 10: "Q", 11: "q", 12: "d"}
SCALAR_BYTES = {kind: struct.calcsize(f"<{code}") for kind, code in SCALARS.items()}
U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")

# Far above any real file, and low enough that a hostile one is refused before it costs much.
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 18
MAX_ARRAY_STRINGS = 1 << 22
MAX_NAME_BYTES = 1 << 10
MAX_DIMS = 4
MAX_ALIGNMENT = 1 << 20
MIN_KEY_BYTES = 8 + 4 + 1
MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8

DAMAGED = "The file is damaged or was cut short: download it again."


class GGUFFile(MappedTensors):
    """One GGUF file (or one part of a split one), memory-mapped.

    >>> with GGUFFile.open(path) as file:
    ...     file.metadata["general.architecture"], file.metadata["tokenizer.ggml.tokens"][:3]

    `metadata` values are str, int, float or bool; arrays are a list of str, or an `array` of numbers (bools
    as 0 and 1). `tensors` gives shapes slowest dimension first. Everything is checked on opening but the strings
    inside arrays.
    """

    def __init__(self, file: MappedFile) -> None:
        super().__init__(file)
        header = _Header(file)
        self.version: int = header.version
        self.metadata: Mapping[str, Any] = header.metadata
        self.tensors: Mapping[str, TensorInfo] = header.tensors
        self._offsets = header.offsets

    def _extent(self, name: str) -> tuple[int, int]:
        start = self._offsets[name]
        return start, start + self.tensors[name].nbytes


@dataclass(frozen=True, slots=True)
class _LazyArray:
    """A metadata array that is still in the file: `count` values of `kind` in bytes start .. stop."""

    file: MappedFile
    key: str
    kind: int
    count: int
    start: int
    stop: int

    def decode(self) -> Any:
        view = self.file.view(self.start, self.stop)
        if self.kind == STRING:
            return self._strings(view)
        return array(SCALARS[self.kind], bytes(view))  # processors with a runner are little-endian, as the file is

    def _strings(self, data: memoryview) -> list[str]:
        strings = read_strings(data, self.count)  # the lengths were checked when the array was stepped over
        if len(strings) < self.count:
            raise ModelFileError(
                f"{self.file.path}: string {len(strings)} of {self.key!r} isn't valid UTF-8. {DAMAGED}"
            )
        return strings


class _Metadata(Mapping[str, Any]):
    """The key-value pairs; an array is decoded when it is first asked for, then kept."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def add(self, key: str, value: Any) -> None:
        self._values[key] = value

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        if isinstance(value, _LazyArray):
            value = self._values[key] = value.decode()
        return value

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class _Header:
    """A cursor over the header, and what it has read."""

    def __init__(self, file: MappedFile) -> None:
        self._file = file
        self._position = 0
        self._buffer = file.view(0, file.size)
        self.metadata = _Metadata()
        self.tensors: dict[str, TensorInfo] = {}
        self.offsets: dict[str, int] = {}
        try:
            self.version = self._version()
            tensor_count = self._count("tensors", MIN_TENSOR_BYTES, MAX_TENSORS)
            key_count = self._count("metadata keys", MIN_KEY_BYTES, MAX_KEYS)
            for _ in range(key_count):
                self._key_value()
            alignment = self._alignment()
            for _ in range(tensor_count):
                self._tensor(alignment)
            self._place_tensors(alignment)
        finally:
            self._buffer.release()

    def _error(self, reason: str) -> ModelFileError:
        return ModelFileError(f"{self._file.path}: {reason}")

    def _take(self, size: int, what: str) -> int:
        """Step over `size` bytes and return where they start."""
        start = self._position
        if size > self._file.size - start:
            raise self._error(
                f"{what} at byte {start} takes {size} bytes, but only {self._file.size - start} are left. {DAMAGED}"
            )
        self._position = start + size
        return start

    def _u32(self, what: str) -> int:
        value: int = U32.unpack_from(self._buffer, self._take(4, what))[0]
        return value

    def _u64(self, what: str) -> int:
        value: int = U64.unpack_from(self._buffer, self._take(8, what))[0]
        return value

    def _string(self, what: str, limit: int | None = None) -> str:
        size = self._u64(what)
        if limit is not None and size > limit:
            raise self._error(f"{what} is {size} bytes long, more than the {limit} allowed. {DAMAGED}")
        start = self._take(size, what)
        try:
            return str(self._buffer[start : self._position], "utf-8")
        except UnicodeDecodeError as error:
            raise self._error(f"{what} at byte {start} isn't valid UTF-8. {DAMAGED}") from error

    def _version(self) -> int:
        start = self._take(4, "the magic number")
        if bytes(self._buffer[start : start + 4]) != b"GGUF":
            raise self._error("this isn't a GGUF file: it doesn't start with 'GGUF'.")
        version = self._u32("the version")
        if version in {2, 3}:
            return version
        if version in {2 << 24, 3 << 24}:
            raise self._error("this GGUF file is big-endian. Use the little-endian file of this model.")
        raise self._error(f"GGUF version {version} isn't supported, only 2 and 3 are. Convert the model again.")

    def _count(self, what: str, min_bytes: int, limit: int) -> int:
        count = self._u64(f"the number of {what}")
        left = self._file.size - self._position
        if count > limit or count * min_bytes > left:
            raise self._error(
                f"the header claims {count} {what}, which {left} bytes can't hold (limit {limit}). {DAMAGED}"
            )
        return count

    def _key_value(self) -> None:
        key = self._string("a metadata key", MAX_NAME_BYTES)
        if key in self.metadata:
            raise self._error(f"the metadata key {key!r} is there twice. {DAMAGED}")
        kind = self._u32(f"the type of {key!r}")
        if kind == STRING:
            self.metadata.add(key, self._string(f"the value of {key!r}"))
        elif kind == ARRAY:
            self.metadata.add(key, self._array(key))
        elif kind in SCALARS:
            self.metadata.add(key, self._scalar(key, kind))
        else:
            raise self._error(f"the metadata key {key!r} has the unknown value type {kind}. {DAMAGED}")

    def _scalar(self, key: str, kind: int) -> int | float | bool:
        start = self._take(SCALAR_BYTES[kind], f"the value of {key!r}")
        value: int | float = struct.unpack_from(f"<{SCALARS[kind]}", self._buffer, start)[0]
        if kind != BOOL:
            return value
        if value not in {0, 1}:
            raise self._error(f"the metadata key {key!r} is a bool of value {value}. {DAMAGED}")
        return bool(value)

    def _array(self, key: str) -> _LazyArray:
        kind = self._u32(f"the element type of {key!r}")
        if kind == ARRAY:
            raise self._error(
                f"the metadata key {key!r} is an array of arrays, which no model needs and isn't supported."
            )
        if kind != STRING and kind not in SCALARS:
            raise self._error(f"the metadata key {key!r} has the unknown element type {kind}. {DAMAGED}")
        what = f"the array {key!r}"
        count = self._u64(what)
        start = self._position
        if kind == STRING:
            self._skip_strings(count, what)
        else:
            self._take(count * SCALAR_BYTES[kind], what)
        return _LazyArray(self._file, key, kind, count, start, self._position)

    def _skip_strings(self, count: int, what: str) -> None:
        size = self._file.size
        if count > MAX_ARRAY_STRINGS or count * 8 > size - self._position:
            raise self._error(f"{what} claims {count} strings, which can't be (limit {MAX_ARRAY_STRINGS}). {DAMAGED}")
        end = end_of_strings(self._buffer, self._position, count)
        if end is None:
            raise self._error(f"{what} runs past the end of the file. {DAMAGED}")
        self._position = end

    def _alignment(self) -> int:
        alignment = self.metadata.get("general.alignment", 32)
        valid = isinstance(alignment, int) and 0 < alignment <= MAX_ALIGNMENT and alignment & (alignment - 1) == 0
        if not valid:
            raise self._error(f"general.alignment isn't a power of two up to {MAX_ALIGNMENT}. {DAMAGED}")
        return int(alignment)

    def _tensor(self, alignment: int) -> None:
        name = self._string("a tensor's name", MAX_NAME_BYTES)
        if name in self.tensors:
            raise self._error(f"the tensor {name!r} is there twice. {DAMAGED}")
        n_dims = self._u32(f"the number of dimensions of {name!r}")
        if not 1 <= n_dims <= MAX_DIMS:
            raise self._error(f"the tensor {name!r} has {n_dims} dimensions, not 1 to {MAX_DIMS}. {DAMAGED}")
        dims = [self._u64(f"the dimensions of {name!r}") for _ in range(n_dims)]
        ggml_type = self._ggml_type(name)
        offset = self._u64(f"the offset of {name!r}")
        if 0 in dims or dims[0] % ggml_type.block_size:
            raise self._error(
                f"the tensor {name!r} has the shape {dims}, which {ggml_type.name} can't have "
                f"(rows of whole blocks of {ggml_type.block_size}). {DAMAGED}"
            )
        if offset % alignment:
            raise self._error(f"the tensor {name!r} lies at offset {offset}, not a multiple of {alignment}. {DAMAGED}")
        nbytes = math.prod(dims) // ggml_type.block_size * ggml_type.block_bytes
        self.tensors[name] = TensorInfo(name, tuple(reversed(dims)), ggml_type.name, nbytes)
        self.offsets[name] = offset

    def _ggml_type(self, name: str) -> GGMLType:
        number = self._u32(f"the type of {name!r}")
        if number in WITHDRAWN_TYPES:
            raise self._error(
                f"the tensor {name!r} is {WITHDRAWN_TYPES[number]}, a type that GGUF has withdrawn. "
                "Use a newer file of this model."
            )
        if number not in GGML_TYPES:
            raise self._error(f"the tensor {name!r} has the unknown type {number}. {DAMAGED}")
        return GGML_TYPES[number]

    def _place_tensors(self, alignment: int) -> None:
        """Turn offsets into positions in the file; every tensor must lie inside it, and on no other."""
        base = -(-self._position // alignment) * alignment
        end, before = base, ""
        for name in sorted(self.tensors, key=self.offsets.__getitem__):
            start = self.offsets[name] = base + self.offsets[name]
            if start < end:
                raise self._error(f"the tensors {before!r} and {name!r} overlap. {DAMAGED}")
            end, before = start + self.tensors[name].nbytes, name
            if end > self._file.size:
                raise self._error(f"the tensor {name!r} ends at byte {end} of {self._file.size}. {DAMAGED}")
