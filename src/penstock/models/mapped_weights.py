"""The `Weights` of a model whose tensors lie in mapped files, GGUF or safetensors."""

from __future__ import annotations

import math
import struct
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.core.errors import ModelFileError
from penstock.models.mapped_file import OverFiles
from penstock.models.spec import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from penstock.models.mapped_file import TensorFile


@dataclass(frozen=True, slots=True)
class Source:
    """Where a tensor is stored. `interleaved_heads` > 0: its rows are that many heads in the order of
    neighbouring pairs (0, d/2, 1, d/2 + 1, ...) and must be put back to (0, 1, 2, ...). `plus_one`: a vector of
    floats that is stored less one; it is given in float32."""

    file: TensorFile
    name: str
    interleaved_heads: int = 0
    plus_one: bool = False

    @property
    def info(self) -> TensorInfo:
        return self.file.tensors[self.name]


class MappedWeights(OverFiles):
    """Implements `models.spec.Weights` over open files, which it owns."""

    def __init__(self, files: Sequence[TensorFile], sources: Mapping[str, Source]) -> None:
        self._files = files
        self._sources = sources

    def names(self) -> Iterator[str]:
        return iter(self._sources)

    def __contains__(self, name: object) -> bool:
        return name in self._sources

    def info(self, name: str) -> TensorInfo:
        source = self._source(name)
        stored = source.info
        if source.plus_one:
            return TensorInfo(name, stored.shape, "F32", 4 * math.prod(stored.shape))
        return TensorInfo(name, stored.shape, stored.dtype, stored.nbytes)

    def read(self, name: str) -> NDArray[np.float32]:
        from penstock.core.torch_extra import require

        require("Reading weights as float32", "numpy")
        import numpy as np

        from penstock.models.dequantize import dequantize_into

        source = self._source(name)
        stored = source.info
        out = np.empty(stored.shape, np.float32)
        if source.interleaved_heads:
            _read_interleaved(source, out)
        else:
            dequantize_into(source.file.data(source.name), stored.dtype, out.reshape(-1))
        if source.plus_one:
            out += 1
        source.file.release_pages(source.name)
        return out

    def raw(self, name: str) -> memoryview:
        source = self._source(name)
        data = source.file.data(source.name)
        if source.plus_one:
            return memoryview(array("f", [1 + value for value in _floats(data, source.info.dtype)])).cast("B")
        if not source.interleaved_heads:
            return data
        rows = source.info.shape[0]
        width, head = len(data) // rows, rows // source.interleaved_heads
        # [head, pair, half, bytes of a row] -> [head, half, pair, bytes of a row]
        order = (
            row for first in range(0, rows, head) for half in (0, 1) for row in range(first + half, first + head, 2)
        )
        return memoryview(b"".join([data[row * width : (row + 1) * width] for row in order]))

    def are_finite(self, name: str) -> bool:
        source = self._source(name)
        return is_finite(source.file, source.name)

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _source(self, name: str) -> Source:
        try:
            return self._sources[name]
        except KeyError:
            raise ModelFileError(f"This model has no tensor {name!r}.") from None


def is_finite(file: TensorFile, name: str) -> bool:
    """Whether a stored tensor holds finite numbers only."""
    from penstock._native import are_finite  # opening a model alone does without it

    finite = are_finite(file.tensors[name].dtype, file.data(name))
    file.release_pages(name)
    return finite


def _floats(data: memoryview, dtype: str) -> Iterable[float]:
    """The numbers of a stored vector. A model has few of these, and numpy need not be there."""
    if dtype == "BF16":
        wide = b"".join(b"\0\0" + data[at : at + 2] for at in range(0, len(data), 2))
        return array("f", wide)
    return data.cast("f") if dtype == "F32" else (value for (value,) in struct.iter_unpack("<e", data))


def _read_interleaved(source: Source, out: NDArray[np.float32]) -> None:
    """Fill `out` one head at a time, so that there is never a second copy of the tensor."""
    import numpy as np

    from penstock.models.dequantize import dequantize_into

    data = source.file.data(source.name)
    heads, columns = source.interleaved_heads, math.prod(out.shape[1:])
    head_bytes = len(data) // heads
    targets = out.reshape(heads, 2, -1, columns)
    stored = np.empty((targets.shape[2], 2, columns), np.float32)
    for head, target in enumerate(targets):
        dequantize_into(data[head * head_bytes : (head + 1) * head_bytes], source.info.dtype, stored.reshape(-1))
        target[:] = stored.swapaxes(0, 1)
