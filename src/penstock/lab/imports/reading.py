"""Files of other tools, read with errors that name the file, the line and the field."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import json
import math
import zlib
from typing import TYPE_CHECKING, Any

from penstock.core.errors import InvalidRequestError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def bad(path: Path, what: str, *, line: int | None = None) -> InvalidRequestError:
    where = f"{path}, line {line}" if line is not None else str(path)
    return InvalidRequestError(f"{where}: {what}", param="file", code="unreadable_results")


def text_of(path: Path) -> str:
    """Plain or .gz. Raises NotFoundError, InvalidRequestError."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        text = data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise NotFoundError(f"There is no {path}.", param="file") from error
    except UnicodeDecodeError as error:
        raise bad(path, f"It is no text in UTF-8 (byte {error.start}).") from error
    except (OSError, EOFError, zlib.error) as error:
        raise bad(path, f"It can't be read: {error}.") from error
    if not text.strip():
        raise bad(path, "It is empty.")
    return text


def json_of(path: Path, text: str, *, line: int | None = None) -> Any:
    """Raises InvalidRequestError with the line at fault; a file that ends too early is said to."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = line if line is not None else error.lineno
        cut = not text[error.pos :].strip() or error.msg.startswith("Unterminated string")
        what = "It ends in the middle: it was cut." if cut else f"It is no JSON: {error.msg}, column {error.colno}."
        raise bad(path, what, line=at) from error
    except ValueError as error:  # a number of thousands of digits
        raise bad(path, f"It is no JSON: {error}.", line=line) from error
    except RecursionError as error:
        raise bad(path, "It is nested too deeply.", line=line) from error


def lines_of(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """JSON objects, one a line, with their line numbers."""
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines would break strings at U+2028
        if line.strip():
            value = json_of(path, line, line=number)
            if not isinstance(value, dict):
                raise bad(path, "It is no JSON object.", line=number)
            yield number, value


def rows_of(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """Lines of a CSV with commas, semicolons or tabs, with their line numbers; empty ones left out."""
    first = text.lstrip("\n").partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        found = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise bad(path, f"It is no CSV: {error}.", line=reader.line_num) from error
    rows = [(line, row) for line, row in found if any(row)]
    if not rows:
        raise bad(path, "None of its cells holds anything.")
    return rows


def moment(seconds: float) -> datetime.datetime | None:
    """Of a wall clock's seconds since 1970; None if there is no such time."""
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return None


def number(path: Path, name: str, value: Any) -> float:
    """Raises InvalidRequestError unless a JSON value is one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise bad(path, f"{name} is no number: {str(value)[:60]!r}.")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def whole(path: Path, name: str, value: float, *, line: int | None = None) -> int:
    """Raises InvalidRequestError unless it is a whole number."""
    if not abs(value) < 2**53 or value != int(value):  # no NaN is
        raise bad(path, f"{name} is no whole number: {value}.", line=line)
    return int(value)


class Fields:
    """A JSON object of a file, whose fields are asked for by name."""

    def __init__(self, path: Path, value: Any, where: str = "") -> None:
        if not isinstance(value, dict):
            raise bad(path, f"{where or 'It'} is no JSON object.")
        self._path, self._value, self._where = path, value, where

    def __contains__(self, name: str) -> bool:
        return self._value.get(name) is not None

    @property
    def raw(self) -> Mapping[str, Any]:
        return self._value

    def within(self, name: str) -> Fields:
        """An object inside. Raises InvalidRequestError if it isn't there."""
        return Fields(self._path, self._need(name), self._named(name))

    def number(self, name: str) -> float:
        """May be NaN or negative, which is physics' to judge. Raises InvalidRequestError if it isn't there."""
        return self._number(name, self._need(name))

    def maybe(self, name: str) -> float | None:
        value = self._value.get(name)
        return None if value is None else self._number(name, value)

    def whole(self, name: str) -> int | None:
        """None if it isn't there."""
        value = self.maybe(name)
        return None if value is None else whole(self._path, self._named(name), value)

    def text(self, name: str) -> str:
        value = self._value.get(name)
        return value if isinstance(value, str) else ""

    def numbers(self, name: str) -> list[float]:
        return [self._number(f"{name}[{i}]", value) for i, value in enumerate(self.items(name))]

    def items(self, name: str) -> list[Any]:
        value = self._need(name)
        if not isinstance(value, list):
            raise bad(self._path, f"{self._named(name)} is no list.")
        return value

    def _need(self, name: str) -> Any:
        if self._value.get(name) is None:
            raise bad(self._path, f"{self._named(name)} is missing.")
        return self._value[name]

    def _number(self, name: str, value: Any) -> float:
        return number(self._path, self._named(name), value)

    def _named(self, name: str) -> str:
        return f"{self._where}.{name}" if self._where else name
