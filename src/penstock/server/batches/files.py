"""Files that clients upload and batches write: contents below the data directory, the rest in its database."""

from __future__ import annotations

import time
import uuid
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from penstock.core.errors import NotFoundError, PayloadTooLargeError
from penstock.server.batches.objects import FileObject

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator
    from pathlib import Path
    from typing import BinaryIO

    from penstock.server.storage import Storage

KEPT_BYTES = 64 << 30  # of all files together
PIECE_BYTES = 1 << 18  # read or written at once

_decode = msgspec.json.Decoder(FileObject).decode


class FileStore:
    """Files in the server's storage.

    Args:
        storage: where they are kept.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    async def receive(self, pieces: AsyncIterator[bytes], *, max_bytes: int) -> tuple[str, int]:
        """Write a file that arrives piece by piece; gives its new id and its size. It is nobody's until `add`.

        Raises PayloadTooLargeError for one over `max_bytes`; nothing is left of a file that fails.
        """
        name = f"file-{uuid.uuid4().hex}"
        path = self.path(name)
        size = 0
        await self.storage.aside(lambda: path.parent.mkdir(parents=True, exist_ok=True, mode=0o700))
        file: BinaryIO = await self.storage.aside(lambda: path.open("xb"))
        try:
            try:
                async for piece in pieces:
                    size += len(piece)
                    if size > max_bytes:
                        raise PayloadTooLargeError(
                            f"The file is larger than this server takes ({max_bytes} bytes).",
                            param="file",
                            code="file_too_large",
                        )
                    await self.storage.aside(partial(file.write, piece))
            finally:
                await self.storage.aside(file.close)
        except BaseException:
            path.unlink()
            raise
        return name, size

    async def add(self, file: FileObject) -> None:
        """Make a written file known. Raises PayloadTooLargeError, and drops it, if all files together are too many."""

        def work(database: sqlite3.Connection) -> None:
            for expired in _expired(database):
                self._drop(database, expired)
            kept = database.execute("SELECT SUM(bytes) FROM files").fetchone()[0] or 0
            if kept + file.bytes > KEPT_BYTES:
                raise PayloadTooLargeError(
                    f"The files that are kept have {kept} bytes, and no more than {KEPT_BYTES} are. Delete some.",
                    param="file",
                    code="storage_full",
                )
            insert_file(database, file)

        try:
            await self.storage.run(work)
        except PayloadTooLargeError:
            self.path(file.id).unlink()
            raise

    async def get(self, name: str) -> FileObject:
        """One file. Raises NotFoundError."""

        def work(database: sqlite3.Connection) -> FileObject | None:
            return find_file(database, name)

        found = await self.storage.run(work) if self.storage.exists else None
        if found is None:
            raise unknown_file(name)
        return found

    async def page(
        self, *, purpose: str | None, after: str | None, limit: int, newest_first: bool
    ) -> tuple[list[FileObject], bool]:
        """A page, and whether there is more. Raises NotFoundError for an `after` that isn't there."""
        order, beyond = ("DESC", "<") if newest_first else ("ASC", ">")

        def work(database: sqlite3.Connection) -> list[FileObject]:
            for expired in _expired(database):
                self._drop(database, expired)
            start = None
            if after is not None:
                row = database.execute("SELECT number FROM files WHERE id = ?", (after,)).fetchone()
                if row is None:
                    raise unknown_file(after)
                start = row[0]
            rows = database.execute(
                f"SELECT file FROM files WHERE ? IS NULL OR number {beyond} ? ORDER BY number {order}",
                (start, start),
            )
            files = (_decode(row[0]) for row in rows)
            found = []
            for file in files:
                if purpose is None or file.purpose == purpose:
                    found.append(file)
                if len(found) > limit:
                    break
            return found

        found = await self.storage.run(work) if self.storage.exists else []
        return found[:limit], len(found) > limit

    async def delete(self, name: str) -> None:
        """Forget a file and its content. Raises NotFoundError."""

        def work(database: sqlite3.Connection) -> None:
            if find_file(database, name) is None:
                raise unknown_file(name)
            self._drop(database, name)

        if not self.storage.exists:
            raise unknown_file(name)
        await self.storage.run(work)

    async def read(self, name: str) -> AsyncIterator[bytes]:
        """The content, piece by piece."""
        file: BinaryIO = await self.storage.aside(lambda: self.path(name).open("rb"))
        try:
            while piece := await self.storage.aside(lambda: file.read(PIECE_BYTES)):
                yield piece
        finally:
            file.close()

    def path(self, name: str) -> Path:
        """Where the content of a file is."""
        return self.storage.files / name

    def _drop(self, database: sqlite3.Connection, name: str) -> None:
        database.execute("DELETE FROM files WHERE id = ?", (name,))
        self.path(name).unlink(missing_ok=True)


def insert_file(database: sqlite3.Connection, file: FileObject) -> None:
    """Make a file known, within a transaction."""
    number = database.execute("SELECT COALESCE(MAX(number), 0) + 1 FROM files").fetchone()[0]
    row = (file.id, number, file.expires_at, file.bytes, msgspec.json.encode(file))
    database.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?)", row)


def find_file(database: sqlite3.Connection, name: str) -> FileObject | None:
    """A file that has not expired, within a transaction."""
    row = database.execute(
        "SELECT file FROM files WHERE id = ? AND (expires_at IS NULL OR expires_at > ?)", (name, int(time.time()))
    ).fetchone()
    return None if row is None else _decode(row[0])


def unknown_file(name: str) -> NotFoundError:
    """The error for a file that isn't there."""
    return NotFoundError(
        f"There is no file {name[:128]!r}: it was deleted, has expired, or never was here.",
        param="file_id",
        code="file_not_found",
    )


def _expired(database: sqlite3.Connection) -> list[str]:
    return [row[0] for row in database.execute("SELECT id FROM files WHERE expires_at <= ?", (int(time.time()),))]
