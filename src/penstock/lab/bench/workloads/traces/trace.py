"""A trace in memory, and the reading of its file row by row."""

from __future__ import annotations

import csv
import gzip
import json
import math
import zlib
from array import array
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, TypeVar

from penstock.core.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

_LONGEST = 10_000_000  # tokens; more is a slip
_BAD = "trace_row"
Row = TypeVar("Row")


class RowError(ValueError):
    """What is wrong with one row."""


@dataclass(slots=True)
class Trace:
    """Requests in order of time, as columns: a trace may have millions."""

    at: array[float] = field(default_factory=lambda: array("d"))  # s after the trace's first request, never falling
    inputs: array[int] = field(default_factory=lambda: array("i"))  # tokens, 1 or more
    outputs: array[int] = field(default_factory=lambda: array("i"))
    blocks: list[array[int]] | None = None  # ids of the prompt's blocks, each so many tokens and the last what is left
    block_tokens: int = 0
    bad: int = 0  # rows passed over because they can't be read
    failed: int = 0  # rows passed over because they got no answer
    ignored: tuple[str, ...] = ()  # columns of which nothing is made

    def add(self, at: float, inputs: int, outputs: int, blocks: Iterable[int] | None = None) -> None:
        """One more request. Raises RowError for what can't be one."""
        if self.at and at < self.at[-1]:
            raise RowError(f"its time, {at:g} s after the first, lies before that of the request above it")
        for name, value in (("input", inputs), ("output", outputs)):
            if not 1 <= value <= _LONGEST:
                raise RowError(f"{value} {name} tokens are not from 1 to {_LONGEST:,}")
        self.at.append(at)
        self.inputs.append(inputs)
        self.outputs.append(outputs)
        if blocks is not None and self.blocks is not None:
            self.blocks.append(array("q", blocks))

    def __len__(self) -> int:
        return len(self.at)


class Failed(Exception):  # noqa: N818 - no error: a row that is as it should be
    """A row of a request that got no answer."""


class OverError(Exception):
    """No further row is wanted."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file of rows, plain or gzipped, and what is done about a bad one."""

    path: Path
    skip_bad: bool = False
    stop: float = float("inf")  # s after the first request; what comes later isn't read

    def table(
        self, trace: Trace, columns: Sequence[str], known: Sequence[str], add: Callable[[list[str]], None]
    ) -> None:
        """Give `add` the `columns` of each row of a CSV with a header; `known` columns may be left aside unmentioned.

        Raises InvalidRequestError for a header without these columns, a damaged file, and a bad row if they aren't
        skipped.
        """
        with self._opened() as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(self._guarded(reader, lambda: 1), [])]
            missing = [name for name in columns if name not in header]
            if missing:
                raise self._error(1, f"the header lacks {', '.join(missing)}; it is {','.join(header)[:200]!r}")
            places = [header.index(name) for name in columns]
            trace.ignored = tuple(name for name in header if name not in (*columns, *known))

            def add_row(row: list[str]) -> None:
                if len(row) != len(header):
                    raise RowError(f"it has {len(row)} fields, the header {len(header)}")
                add([row[place] for place in places])

            rows = (row for row in self._guarded(reader, lambda: reader.line_num) if row)
            self._each(trace, rows, lambda: reader.line_num, add_row)

    def objects(self, trace: Trace, add: Callable[[dict[str, Any]], None]) -> None:
        """Give `add` the object of each line of a JSONL. Raises InvalidRequestError as `table` does."""
        number = 0

        def numbered(file: IO[str]) -> Iterator[str]:
            nonlocal number
            for line in file:
                number += 1  # for errors
                if line.strip():
                    yield line

        def add_line(line: str) -> None:
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise RowError(f"it is no JSON: {error}") from error
            if not isinstance(value, dict):
                raise RowError("it is no JSON object")
            add(value)

        with self._opened() as file:
            self._each(trace, self._guarded(numbered(file), lambda: number + 1), lambda: number, add_line)

    def _opened(self) -> IO[str]:
        try:
            if self.path.suffix == ".gz":
                return gzip.open(self.path, "rt", encoding="utf-8-sig", newline="")
            return self.path.open(encoding="utf-8-sig", newline="")
        except OSError as error:
            raise InvalidRequestError(f"{self.path} can't be read: {error.strerror}.", param="path") from error

    def _guarded(self, rows: Iterator[Row], number: Callable[[], int]) -> Iterator[Row]:
        """The rows; a file that is damaged in itself is refused whatever is done about bad rows."""
        try:
            yield from rows
        except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
            raise self._error(number(), f"the file is damaged there: {error}") from error

    def _each(self, trace: Trace, rows: Iterator[Row], number: Callable[[], int], add: Callable[[Row], None]) -> None:
        for row in rows:
            try:
                add(row)
            except OverError:
                return
            except Failed:
                trace.failed += 1
            except (RowError, KeyError, TypeError, ValueError, OverflowError) as error:
                why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
                if not self.skip_bad:
                    raise self._error(number(), why) from error
                trace.bad += 1
        if not trace:
            raise InvalidRequestError(f"{self.path} has no request that can be asked again.", param="path", code=_BAD)

    def _error(self, number: int, why: str) -> InvalidRequestError:
        hint = "" if number == 1 else " Mend it, or pass over such rows with skip_bad_rows=yes."
        return InvalidRequestError(f"{self.path}, line {number}: {why}.{hint}", param="path", code=_BAD)


def whole(value: Any, name: str) -> int:
    """A whole number, of text or of JSON. Raises RowError."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise RowError(f"{name} is no whole number: {value!r}")
    try:
        return int(value)
    except ValueError:
        raise RowError(f"{name} is no whole number: {value!r}") from None


def finite(value: Any, name: str, unit: str) -> float:
    """A number of `unit`, of text or of JSON. Raises RowError."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RowError(f"{name} is no number of {unit}: {value!r}")
    return number
