"""A file mapped read-only into memory, so that opening a model costs neither time nor memory."""

from __future__ import annotations

import contextlib
import mmap
import stat
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

from penstock.core.errors import ModelFileError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from penstock.models.spec import TensorInfo


class TensorFile(Protocol):
    """What a GGUF file and a safetensors file have in common: named tensors over mapped bytes."""

    @property
    def path(self) -> Path: ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    def data(self, name: str) -> memoryview:
        """The stored bytes of one tensor, a read-only view of the mapping."""
        ...

    def release_pages(self, name: str) -> None:
        """Give back the physical memory that reading this tensor took; the view stays valid."""
        ...

    def close(self) -> None: ...


class MappedFile:
    """A regular, non-empty file under `mmap`. Bytes come in on first touch and belong to the page cache."""

    def __init__(self, path: Path) -> None:
        """Raises NotFoundError if there is no such file, ModelFileError if it can't be mapped."""
        self.path = path
        try:
            status = path.stat()
            # A FIFO or a device would block, or never end.
            if not stat.S_ISREG(status.st_mode):
                raise ModelFileError(f"{path} is not a regular file.")
            if status.st_size == 0:
                raise ModelFileError(f"{path} is empty. Download it again.")
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise NotFoundError(f"There is no file {path}.") from error
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or emptied since
            raise ModelFileError(f"{path} can't be read: {error}.") from error
        self.size = len(self._map)

    def view(self, start: int, stop: int) -> memoryview:
        """Bytes start .. stop, not copied. Raises ValueError once the file is closed."""
        return memoryview(self._map)[start:stop]

    def release_pages(self, start: int, stop: int) -> None:
        """Unmap these bytes' physical pages; the next touch brings them back from the page cache.

        Without this a model's file stays resident beside the weights that were made from it.
        """
        first = start - start % mmap.PAGESIZE
        if hasattr(mmap, "MADV_DONTNEED") and stop > first:
            self._map.madvise(mmap.MADV_DONTNEED, first, stop - first)

    def close(self) -> None:
        # A view that is still held keeps the mapping alive: it goes with the last of them.
        with contextlib.suppress(BufferError):
            self._map.close()


class OverFiles(ABC):
    """What reads files that are closed with it, at the latest at the end of its `with`."""

    @abstractmethod
    def close(self) -> None:
        """Close them; what is read afterwards raises ValueError."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class MappedTensors(OverFiles):
    """Named tensors over one mapped file, which is this object's to close. Its header is read from the start."""

    def __init__(self, file: MappedFile) -> None:
        self.path: Path = file.path
        self._file = file

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises NotFoundError if there is no such file, ModelFileError for whatever is wrong with it."""
        file = MappedFile(path)
        try:
            return cls(file)
        except BaseException:
            file.close()
            raise

    def data(self, name: str) -> memoryview:
        """The stored bytes of one tensor: a view, read-only."""
        return self._file.view(*self._extent(name))

    def release_pages(self, name: str) -> None:
        """Give back the physical memory that reading this tensor took."""
        self._file.release_pages(*self._extent(name))

    def close(self) -> None:
        self._file.close()

    @abstractmethod
    def _extent(self, name: str) -> tuple[int, int]:
        """Where a tensor's bytes begin and end."""
