"""An uploaded file on its way to the disk."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from penstock.core.errors import InvalidRequestError
from penstock.server.batches.objects import FileObject
from penstock.server.body import READ_SECONDS
from penstock.server.hangup import ClientGoneError
from penstock.server.multipart import MultipartParser, PartHead

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from penstock.server.batches.files import FileStore

MAX_FIELD_BYTES = 1024
LEAST_SECONDS, MOST_SECONDS = 3600, 30 * 86400  # that a file may be said to be kept
FORM_FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")


async def read_upload(http: Request, files: FileStore, *, max_bytes: int) -> FileObject:
    """Write the file of a form to the disk; it is still to be made known.

    Raises:
        PayloadTooLargeError: the file is over `max_bytes`.
        InvalidRequestError: not a form with a file and its purpose.
        ClientGoneError: the client left meanwhile.
    """
    form = _Form(http, MultipartParser(http.headers.get("content-type", "")))
    name, size = await files.receive(form.file(), max_bytes=max_bytes)
    try:
        return form.object(name, size)
    except InvalidRequestError:
        files.path(name).unlink()
        raise


class _Form:
    """Reads a form's plain fields while its file is passed on."""

    def __init__(self, http: Request, parser: MultipartParser) -> None:
        self._http = http
        self._parser = parser
        self._fields: dict[str, bytes] = {}
        self._filename: str | None = None

    async def file(self) -> AsyncIterator[bytes]:
        """The pieces of the file."""
        current: PartHead | None = None
        async for found in self._parts():
            if isinstance(found, PartHead):
                current = self._begin(found)
            elif current is not None and current.name == "file":
                yield found
            elif current is not None:
                value = self._fields[current.name] + found
                if len(value) > MAX_FIELD_BYTES:
                    raise _invalid(current.name, f"is longer than {MAX_FIELD_BYTES} bytes")
                self._fields[current.name] = value
        self._parser.finish()

    def object(self, name: str, size: int) -> FileObject:
        """The file that was read. Raises InvalidRequestError for fields that are missing or can't be."""
        if self._filename is None:
            raise InvalidRequestError("'file' is missing.", param="file", code="missing_field")
        fields = {key: value.decode("utf-8", "replace") for key, value in self._fields.items()}
        if "purpose" not in fields:
            raise InvalidRequestError("'purpose' is missing.", param="purpose", code="missing_field")
        if fields["purpose"] != "batch":
            raise _invalid("purpose", f"is {fields['purpose'][:64]!r}; files are for 'batch' here")
        now = int(time.time())
        expires_at = None
        seconds = fields.get("expires_after[seconds]")
        if seconds is not None:
            if not seconds.isdecimal() or not LEAST_SECONDS <= int(seconds) <= MOST_SECONDS:
                raise _invalid("expires_after[seconds]", f"must be a number from {LEAST_SECONDS} to {MOST_SECONDS}")
            expires_at = now + int(seconds)
        if fields.get("expires_after[anchor]", "created_at") != "created_at":
            raise _invalid("expires_after[anchor]", "can only be created_at")
        return FileObject(
            id=name, bytes=size, created_at=now, expires_at=expires_at, filename=self._filename, purpose="batch"
        )

    def _begin(self, part: PartHead) -> PartHead:
        if part.name in self._fields or (part.name == "file" and self._filename is not None):
            raise _invalid(part.name, "is there twice")
        if part.name == "file":
            if part.filename is None:
                raise _invalid("file", "has no filename, so it is not a file")
            self._filename = part.filename[:255]
        elif part.name in FORM_FIELDS:
            self._fields[part.name] = b""
        else:
            raise InvalidRequestError(
                f"'{part.name[:64]}' is not supported.", param=part.name[:64], code="unsupported_parameter"
            )
        return part

    async def _parts(self) -> AsyncIterator[PartHead | bytes]:
        more = True
        while more:
            try:
                async with asyncio.timeout(READ_SECONDS):
                    message = await self._http.receive()
            except TimeoutError:
                raise HTTPException(408, f"Nothing of the file came for {READ_SECONDS:.0f} seconds.") from None
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            for found in self._parser.feed(message.get("body", b"")):
                yield found
            more = message.get("more_body", False)


def _invalid(field: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"'{field}' {why}.", param=field, code="invalid_value")
