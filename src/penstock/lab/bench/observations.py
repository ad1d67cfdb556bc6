"""What was seen of a run, a column a quantity: a million requests are a few arrays.

Times are float64 seconds after the run's start, on the monotonic clock; NaN stands for what never happened. The file is
an ordinary `.npz`, which numpy reads anywhere; `meta` in it is JSON.
"""

from __future__ import annotations

import json
import mmap
import zipfile
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.core.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from numpy.typing import NDArray

FORMAT = 1

_TIMES = ("due", "sent", "connected", "first_byte", "first_text", "last_text", "end")
_COUNTS = ("ending", "status", "finish", "prompt_tokens", "completion_tokens", "cached_tokens", "text_bytes")
PIECES = {"piece_gaps": np.float32, "piece_tokens": np.uint16, "piece_bytes": np.uint16}


class Ending(IntEnum):
    """How a request ended. The native module's names, in its order; `tests/lab` holds the two together."""

    WHOLE = 0
    CONNECT = 1
    TLS = 2
    TIMEOUT = 3
    BROKEN = 4
    STATUS = 5
    TRUNCATED = 6
    MALFORMED = 7
    IN_STREAM = 8
    EMPTY = 9
    CUT = 10


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Observations:
    """One run. All columns but the last four have one entry a request, in order of ending."""

    id: NDArray[np.int64]
    due: NDArray[np.float64]  # latency counts from here
    sent: NDArray[np.float64]
    connected: NDArray[np.float64]  # equal to `sent` on a connection that was used again
    first_byte: NDArray[np.float64]
    first_text: NDArray[np.float64]
    last_text: NDArray[np.float64]
    end: NDArray[np.float64]
    ending: NDArray[np.int32]  # Ending
    status: NDArray[np.int32]  # of HTTP; 0: none came
    finish: NDArray[np.int32]  # 0: none told, 1: stop, 2: length, 3: tool_calls, 4: content_filter, 5: another
    prompt_tokens: NDArray[np.int32]  # as the server counts them; -1: not told; so the next two
    completion_tokens: NDArray[np.int32]
    cached_tokens: NDArray[np.int32]
    text_bytes: NDArray[np.int32]
    wanted_prompt: NDArray[np.int32]  # as the workload meant it; -1: unknown
    wanted_output: NDArray[np.int32]
    warm_up: NDArray[np.bool_]  # not to be counted
    piece_counts: NDArray[np.uint32]  # events with text, a request; their entries in the next three follow each other
    piece_gaps: NDArray[np.float32]  # s since the piece before; of a request's first, since it was due
    piece_tokens: NDArray[np.uint16]  # since the piece before, where the server counts as it goes; else 0
    piece_bytes: NDArray[np.uint16]  # of UTF-8 text
    texts: dict[int, str] = field(default_factory=dict)  # by request id; of those that were kept
    details: dict[int, str] = field(default_factory=dict)  # by request id: what went wrong
    meta: dict[str, Any] = field(default_factory=dict)  # start (Unix time), client health, whether the run was cut

    def __len__(self) -> int:
        return len(self.id)

    def where(self, mask: NDArray[np.bool_]) -> Self:
        """Only the requests for which `mask` [n] is true."""
        pieces = np.repeat(mask, self.piece_counts)
        kept = set(self.id[mask].tolist())
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, column in columns.items():
            if name in PIECES:
                columns[name] = column[pieces]
            elif isinstance(column, np.ndarray):
                columns[name] = column[mask]
            elif name in ("texts", "details"):
                columns[name] = {key: value for key, value in column.items() if key in kept}
        return type(self)(**columns)

    def forget_pieces(self) -> None:
        """Let go of what was read of the pieces of a file, which is read again when it is wanted."""
        for name in PIECES:
            mapped = getattr(self, name)
            if isinstance(mapped, np.memmap) and mapped._mmap is not None:  # type: ignore[attr-defined]
                mapped._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]

    @classmethod
    def from_native(
        cls, parts: Sequence[Mapping[str, Any]], start_ns: int, wanted: Mapping[str, NDArray[Any]], meta: dict[str, Any]
    ) -> Self:
        """Put what `LoadGenerator.take()` gave together.

        `wanted` has `wanted_prompt`, `wanted_output` and `warm_up` by request id, which counts from 0.
        """

        def column(name: str, dtype: Any) -> NDArray[Any]:
            return np.concatenate([np.frombuffer(part[name], dtype) for part in parts] or [np.empty(0, dtype)])

        ids = column("id", np.uint64).astype(np.int64)
        columns: dict[str, Any] = {"id": ids}
        for name in _TIMES:
            raw = column(name, np.uint64)
            columns[name] = np.where(raw == 0, np.nan, (raw.astype(np.int64) - start_ns) / 1e9)
        for name in _COUNTS:
            columns[name] = column(name, np.int32)
        columns["piece_counts"] = column("piece_counts", np.uint32)
        for name, dtype in PIECES.items():
            columns[name] = column(name, dtype)
        columns |= {name: values[ids] for name, values in wanted.items()}
        texts = {key: text for part in parts for key, text in part["texts"]}
        details = {key: text for part in parts for key, text in part["details"]}
        return cls(**columns, texts=texts, details=details, meta=meta)

    def save(self, path: Path) -> None:
        """Write all of it, whole or not at all; text and details as JSON beside the columns."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("texts", "details", "meta")}
        spoken = {"format": FORMAT, "meta": self.meta, "texts": self.texts, "details": self.details}
        unfinished = path.with_name(f".{path.name}.unfinished")  # another may have the old one mapped into its memory
        try:
            with unfinished.open("wb") as stream:
                np.savez(stream, **arrays, meta=np.frombuffer(json.dumps(spoken).encode(), np.uint8))
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Self:
        """The columns of the pieces stay in the file until they are read.

        Raises:
            InvalidRequestError: it isn't such a file.
        """
        try:
            loaded = cls(**_read(path))
            loaded._check()
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise InvalidRequestError(f"{path} holds no observations that can be read: {error}") from error
        return loaded

    def _check(self) -> None:
        """Raises ValueError if columns don't belong together."""
        pieces = int(self.piece_counts.sum(dtype=np.int64))
        for f in fields(self):
            column = getattr(self, f.name)
            if isinstance(column, np.ndarray) and len(column) != (pieces if f.name in PIECES else len(self.id)):
                raise ValueError(f"the column {f.name} has {len(column)} entries, which is not as many as the others")


def _read(path: Path) -> dict[str, Any]:
    """The fields."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        spoken = json.loads(stored["meta"].tobytes())
        if spoken["format"] != FORMAT:
            raise ValueError(f"they are of format {spoken['format']}, and this Penstock reads {FORMAT}.")
        columns: dict[str, Any] = {name: stored[name] for name in stored.files if name not in ("meta", *PIECES)}
        columns |= {name: _mapped(path, stored.zip, name) for name in PIECES}
    spoken_of = {name: {int(key): text for key, text in spoken[name].items()} for name in ("texts", "details")}
    return columns | spoken_of | {"meta": spoken["meta"]}


def _mapped(path: Path, archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """A column that lies in the file uncompressed, as `np.savez` writes it; else it is read."""
    entry = archive.getinfo(f"{name}.npy")
    with archive.open(entry) as stream:
        np.lib.format.read_magic(stream)
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        if dtype != PIECES[name] or len(shape) != 1:
            raise ValueError(f"the column {name} is of {dtype}, in {len(shape)} dimensions")
        if entry.compress_type != zipfile.ZIP_STORED or not shape[0]:
            return np.frombuffer(stream.read(), dtype)
        head = stream.tell()
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)  # the entry's own header: the lengths of its two last fields
        lengths = int.from_bytes(file.read(2), "little") + int.from_bytes(file.read(2), "little")
    return np.memmap(path, dtype, "r", entry.header_offset + 30 + lengths + head, shape)
