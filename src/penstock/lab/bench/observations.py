"""What was seen of a run, a column a quantity: a million requests are a few arrays.

Times are float64 seconds after the run's start, on the monotonic clock; NaN stands for what never happened. The file is
an ordinary `.npz`, which numpy reads anywhere; `meta` in it is JSON.
"""

from __future__ import annotations

import json
import mmap
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
_PIECES = {"piece_gaps": np.float32, "piece_tokens": np.uint16, "piece_bytes": np.uint16}


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
            if name in _PIECES:
                columns[name] = column[pieces]
            elif isinstance(column, np.ndarray):
                columns[name] = column[mask]
            elif name in ("texts", "details"):
                columns[name] = {key: value for key, value in column.items() if key in kept}
        return type(self)(**columns)

    def forget_pieces(self) -> None:
        """Let go of what was read of the pieces of a file, which is read again when it is wanted."""
        for name in _PIECES:
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
        for name, dtype in _PIECES.items():
            columns[name] = column(name, dtype)
        columns |= {name: values[ids] for name, values in wanted.items()}
        texts = {key: text for part in parts for key, text in part["texts"]}
        details = {key: text for part in parts for key, text in part["details"]}
        return cls(**columns, texts=texts, details=details, meta=meta)

    def save(self, path: Path) -> None:
        """Write all of it; text and details as JSON beside the columns."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("texts", "details", "meta")}
        spoken = {"format": FORMAT, "meta": self.meta, "texts": self.texts, "details": self.details}
        with path.open("wb") as stream:
            np.savez(stream, **arrays, meta=np.frombuffer(json.dumps(spoken).encode(), np.uint8))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises InvalidRequestError if it isn't such a file."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                spoken = json.loads(stored["meta"].tobytes())
                if spoken["format"] != FORMAT:
                    raise InvalidRequestError(
                        f"{path} holds observations of format {spoken['format']}, and this Penstock reads {FORMAT}."
                    )
                texts, details = ({int(k): v for k, v in spoken[name].items()} for name in ("texts", "details"))
                arrays = {name: stored[name] for name in stored.files if name != "meta"}
            return cls(**arrays, texts=texts, details=details, meta=spoken["meta"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidRequestError(f"{path} holds no observations that can be read: {error}") from error
