"""multipart/form-data (RFC 7578) as it arrives: each part's head, then its bytes in pieces, however long it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_HEAD_BYTES = 8192  # of one part

_BOUNDARY = re.compile(r'multipart/form-data\s*;(?:.*;)?\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_PARAMETER = re.compile(r';\s*(name|filename)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PartHead:
    """A part begins; its bytes follow. `filename` is None for a plain field."""

    name: str
    filename: str | None


class MultipartParser:
    """Feed it a body piece by piece.

    Args:
        content_type: of the request.

    Raises InvalidRequestError for a body that isn't multipart, or breaks off.
    """

    def __init__(self, content_type: str) -> None:
        found = _BOUNDARY.match(content_type)
        if found is None:
            raise InvalidRequestError(
                "Send the file as multipart/form-data with a boundary.", code="invalid_content_type"
            )
        self._delimiter = b"\r\n--" + (found.group(1) or found.group(2)).encode()
        self._buffer = bytearray(b"\r\n")  # the first delimiter may lack the line end before it
        self._next: Callable[[], PartHead | bytes | None] = self._before
        self._ended = False

    def feed(self, data: bytes) -> Iterator[PartHead | bytes]:
        """What this piece of the body completes."""
        if not self._ended:
            self._buffer += data
            while (found := self._next()) is not None:
                if found != b"":
                    yield found

    def finish(self) -> None:
        """Raises InvalidRequestError if the body isn't complete."""
        if not self._ended:
            raise _broken("it ends before its last boundary")

    # Each state takes what it can from the buffer: None if it needs more, b"" if there is nothing to tell.

    def _before(self) -> bytes | None:
        """Skips what stands before the first delimiter."""
        at = self._buffer.find(self._delimiter)
        if at < 0:
            del self._buffer[: max(len(self._buffer) - len(self._delimiter), 0)]
            return None
        del self._buffer[: at + len(self._delimiter)]
        self._next = self._after_delimiter
        return b""

    def _after_delimiter(self) -> bytes | None:
        line_end = self._buffer.find(b"\r\n")
        if self._buffer.startswith(b"--"):
            self._ended = True
            self._buffer.clear()
            self._next = self._nothing
            return None
        if line_end < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise _broken("a boundary's line doesn't end")
            return None
        if self._buffer[:line_end].strip(b" \t"):
            raise _broken("something follows a boundary on its line")
        del self._buffer[:line_end]
        self._next = self._head
        return b""

    def _head(self) -> PartHead | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or end > MAX_HEAD_BYTES:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise _broken(f"a part's head is over {MAX_HEAD_BYTES} bytes")
            return None
        lines = self._buffer[:end].decode("utf-8", "replace").split("\r\n")
        del self._buffer[: end + 2]  # the line end that is left may begin a delimiter: the part is then empty
        self._next = self._line_end
        for line in lines:
            header, _, value = line.partition(":")
            if header.strip().lower() == "content-disposition":
                found = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(value)}
                if "name" in found:
                    filename = _unquoted(found["filename"]) if "filename" in found else None
                    return PartHead(_unquoted(found["name"]), filename)
        raise _broken("a part has no name")

    def _line_end(self) -> bytes | None:
        if len(self._buffer) < len(self._delimiter) and self._delimiter.startswith(self._buffer):
            return None
        if not self._buffer.startswith(self._delimiter):
            del self._buffer[:2]
        self._next = self._content
        return b""

    def _content(self) -> bytes | None:
        at = self._buffer.find(self._delimiter)
        if at < 0:
            at = len(self._buffer) - len(self._delimiter) + 1
            if at <= 0:
                return None
        else:
            self._next = self._before
        content = bytes(self._buffer[:at])
        del self._buffer[:at]
        return content

    def _nothing(self) -> None:
        return None


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _broken(why: str) -> InvalidRequestError:
    return InvalidRequestError(f"The body is not valid multipart/form-data: {why}.", code="invalid_multipart")
