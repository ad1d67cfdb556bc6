"""An input file, line by line: what is wrong with a line is that line's error alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from penstock.server.batches.objects import BatchError, InputLine, LineError
from penstock.server.body import explain

if TYPE_CHECKING:
    from pathlib import Path

MOST_LINES = 50_000
MAX_LINE_BYTES = 16 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # what some editors begin a file of UTF-8 with

_decode = msgspec.json.Decoder(InputLine).decode


class BadFileError(Exception):
    """The file as a whole is no use."""

    def __init__(self, error: BatchError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(frozen=True, slots=True)
class ReadLine:
    """One line, counted from 1; `raw` is what was read, of a good line alone."""

    number: int
    raw: bytes
    custom_id: str | None
    model: str | None
    error: LineError | None


def read_lines(path: Path, endpoint: str) -> list[ReadLine]:
    """Every line of a file that isn't blank. Raises BadFileError for a file without any, or with too many."""
    lines: list[ReadLine] = []
    names: set[str] = set()
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if number == 1:
                raw = raw.removeprefix(_BYTE_ORDER_MARK)
            if len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
                raise BadFileError(
                    BatchError(
                        code="line_too_large",
                        message=f"Line {number} has more than {MAX_LINE_BYTES} bytes.",
                        line=number,
                    )
                )
            if not raw.strip():
                continue
            lines.append(_read(number, raw.strip(), endpoint, names))
            if len(lines) > MOST_LINES:
                message = f"The input file has more than {MOST_LINES} lines. Split it."
                raise BadFileError(BatchError(code="too_many_tasks", message=message))
    if not lines:
        raise BadFileError(BatchError(code="empty_file", message="The input file has no lines."))
    return lines


def _read(number: int, raw: bytes, endpoint: str, names: set[str]) -> ReadLine:
    try:
        raw.decode()
        line = _decode(raw)
    except UnicodeDecodeError:
        return _bad(number, None, "invalid_json_line", "it is not UTF-8")
    except RecursionError:
        return _bad(number, None, "invalid_json_line", "it is nested too deeply")
    except msgspec.ValidationError as error:
        wrong = explain(str(error), InputLine, whole="The line").message
        return _bad(number, _name_in(raw), "invalid_request", wrong[0].lower() + wrong[1:-1])
    except msgspec.DecodeError as error:
        return _bad(number, None, "invalid_json_line", f"it is not JSON: {error}")
    name = line.custom_id
    if name in names:
        return _bad(number, name, "duplicate_custom_id", f"an earlier line has the custom_id {name[:64]!r} too")
    names.add(name)
    if line.url != endpoint:
        return _bad(
            number, name, "invalid_url", f"its url is {line.url[:128]!r}, and the batch's endpoint {endpoint!r}"
        )
    if line.body.get("stream"):
        return _bad(number, name, "invalid_request", "nobody reads a stream of it; leave out 'stream'")
    if line.body.get("background"):
        return _bad(number, name, "invalid_request", "a batch waits for its answers; leave out 'background'")
    model = line.body.get("model")
    return ReadLine(number, raw, name, model if isinstance(model, str) else None, None)


def _bad(number: int, name: str | None, code: str, why: str) -> ReadLine:
    error = LineError(code=code, message=f"Line {number} can't be run: {why}.", line=number)
    return ReadLine(number, b"", name, None, error)


def _name_in(raw: bytes) -> str | None:
    """The custom_id of a line that is wrong otherwise."""
    try:
        name = msgspec.json.decode(raw, type=dict[str, object]).get("custom_id")
    except msgspec.DecodeError:
        return None
    return name if isinstance(name, str) else None
