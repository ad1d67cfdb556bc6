"""What a day holds: `metrics.json`, its Records, or where they went when they were promoted."""

from __future__ import annotations

import contextlib
import datetime
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from penstock.core.errors import RecordError
from penstock.core.record import Attachment, Record

_SCHEMA = 1


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A Record of a day: itself, or after promotion its place in the folder of Records and its checksum.

    So each Record is in one place only.
    """

    name: str
    record: dict[str, Any] | None = None
    promoted: Attachment | None = None  # its path is relative to the folder of Records


class Metrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema_version: int = _SCHEMA
    promoted: datetime.date | None = None  # when the day's lessons were lifted
    records: tuple[Entry, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Metrics:
        """Raises RecordError, naming the file, if it is missing, half-written or of another schema."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise RecordError(f"{path} can't be read: {error.strerror}.") from error
        try:
            version = msgspec.json.decode(data, type=_Header).schema_version
            if version != _SCHEMA:
                raise RecordError(f"{path} follows schema {version}, and this Penstock reads schema {_SCHEMA}.")
            return msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            conflict = " It holds a merge conflict." if b"\n<<<<<<< " in b"\n" + data else ""
            raise RecordError(f"{path} is not whole: {error}.{conflict}") from error

    def save(self, path: Path) -> None:
        write_whole(path, msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")


class _Header(msgspec.Struct):
    schema_version: int


def write_whole(path: Path, data: bytes | str) -> bool:
    """Write a file, whole or not at all, unless it is so already; whether it was written. Raises RecordError."""
    content = data.encode() if isinstance(data, str) else data
    try:
        if path.is_file() and path.read_bytes() == content:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
            Path(name).chmod(path.stat().st_mode if path.exists() else 0o644)
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise RecordError(f"{path} can't be written: {error.strerror}.") from error
    return True


def entry_of(name: str, record: Record) -> Entry:
    return Entry(name, record=msgspec.json.decode(record.to_json()))


def record_of(entry: Entry) -> Record:
    """The Record that lies in the entry itself. Raises RecordError if it is none that can be used."""
    return Record.from_json(msgspec.json.encode(entry.record), source=f"the Record {entry.name!r}")
