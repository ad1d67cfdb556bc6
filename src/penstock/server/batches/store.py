"""Batches and their lines: a journal in which each line's result is written once."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

import msgspec
from msgspec import structs

from penstock.core.errors import NotFoundError
from penstock.server.batches.files import insert_file
from penstock.server.batches.objects import (
    Batch,
    BatchError,
    BatchErrors,
    FileObject,
    LineError,
    OutputLine,
    RequestCounts,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterable

    from penstock.server.batches.reading import ReadLine
    from penstock.server.storage import Storage

FINAL = ("completed", "failed", "expired", "cancelled")
NAMED_ERRORS = 100  # of an input file's bad lines, in the batch itself; the error file has all

_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(Batch).decode


class BatchStore:
    """Batches in the server's storage.

    Args:
        storage: where they are kept.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    async def add(self, batch: Batch) -> None:
        """Keep a new batch, which is this server's to run."""
        owner = self.storage.owner

        def work(database: sqlite3.Connection) -> None:
            number = database.execute("SELECT COALESCE(MAX(number), 0) + 1 FROM batches").fetchone()[0]
            row = (batch.id, number, owner, None, batch.expires_at, _encode(batch))
            database.execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?)", row)

        await self.storage.run(work)

    async def get(self, name: str) -> Batch:
        """One batch as it stands. Raises NotFoundError."""
        if not self.storage.exists:
            raise _unknown(name)
        return await self.storage.run(lambda database: _find(database, name))

    async def page(self, *, after: str | None, limit: int) -> tuple[list[Batch], bool]:
        """A page, the newest first, and whether there is more. Raises NotFoundError for an unknown `after`."""

        def work(database: sqlite3.Connection) -> list[Batch]:
            start = None
            if after is not None:
                row = database.execute("SELECT number FROM batches WHERE id = ?", (after,)).fetchone()
                if row is None:
                    raise _unknown(after)
                start = row[0]
            rows = database.execute(
                "SELECT batch FROM batches WHERE ? IS NULL OR number < ? ORDER BY number DESC LIMIT ?",
                (start, start, limit + 1),
            ).fetchall()
            return [_counted(database, _decode(row[0])) for row in rows]

        found = await self.storage.run(work) if self.storage.exists else []
        return found[:limit], len(found) > limit

    async def begin(self, batch: Batch, lines: Iterable[ReadLine], model: str | None) -> Batch:
        """Write the journal of a batch whose file has been read; its bad lines have failed already."""

        def work(database: sqlite3.Connection) -> Batch:
            errors: list[BatchError] = []
            for line in lines:
                result = None
                if line.error is not None:
                    error = line.error
                    if len(errors) < NAMED_ERRORS:
                        errors.append(BatchError(code=error.code, message=error.message, line=line.number))
                    result = _encode(OutputLine(id=_request_id(), custom_id=line.custom_id, error=error))
                row = (batch.id, line.number, line.raw, None if result is None else 1, result)
                database.execute("INSERT INTO batch_lines VALUES (?, ?, ?, ?, ?)", row)
            begun = structs.replace(_find(database, batch.id), errors=BatchErrors(data=errors) if errors else None)
            if begun.status == "validating":
                begun = structs.replace(begun, status="in_progress", in_progress_at=int(time.time()))
            database.execute("UPDATE batches SET model = ? WHERE id = ?", (model, batch.id))
            return _write(database, begun)

        return await self.storage.run(work)

    async def fail(self, name: str, errors: list[BatchError]) -> None:
        """End a batch whose input file is no use."""

        def work(database: sqlite3.Connection) -> None:
            batch = _find(database, name)
            failed = structs.replace(
                batch, status="failed", failed_at=int(time.time()), errors=BatchErrors(data=errors)
            )
            _write(database, failed)

        await self.storage.run(work)

    async def pending(self, name: str, *, beyond: int, limit: int) -> tuple[Batch, list[tuple[int, bytes]]]:
        """The batch, and lines without a result with their numbers, in the order of the file, after line `beyond`."""

        def work(database: sqlite3.Connection) -> tuple[Batch, list[tuple[int, bytes]]]:
            rows = database.execute(
                "SELECT number, line FROM batch_lines WHERE batch = ? AND number > ? AND result IS NULL "
                "ORDER BY number LIMIT ?",
                (name, beyond, limit),
            ).fetchall()
            return _stored(database, name), rows

        return await self.storage.run(work)

    async def commit(self, name: str, number: int, result: OutputLine, *, failed: bool) -> bool:
        """Write a line's result, the first one alone; whether the batch is to go on."""
        owner, encoded = self.storage.owner, _encode(result)

        def work(database: sqlite3.Connection) -> bool:
            if not _owns(database, owner, name):
                return False
            database.execute(
                "UPDATE batch_lines SET failed = ?, result = ? WHERE batch = ? AND number = ? AND result IS NULL",
                (int(failed), encoded, name, number),
            )
            return _stored(database, name).status == "in_progress"

        return await self.storage.run(work)

    async def finalize(self, name: str, *, expired: bool) -> None:
        """Write the output and error files of a batch that has run, been cancelled or expired, and end it.

        Both files are whole before the batch says so; a crash before that only means that they are written again.
        """

        owner = self.storage.owner

        def begin(database: sqlite3.Connection) -> Batch | None:
            batch = _find(database, name)
            if not _owns(database, owner, name):
                return None
            if batch.status == "in_progress":
                now = int(time.time())
                over = expired and _left(database, name)
                ends = {"expired_at": now} if over else {"finalizing_at": now}
                batch = _write(database, structs.replace(batch, status="finalizing", **ends))
            _close_lines(database, batch)
            return batch

        batch = await self.storage.run(begin)
        if batch is not None:
            await self.storage.run(lambda database: self._end(database, batch, owner))

    async def cancel(self, name: str) -> Batch:
        """Ask for a batch's end; one that has ended stays as it is. Raises NotFoundError."""

        def work(database: sqlite3.Connection) -> Batch:
            batch = _find(database, name)
            if batch.status in ("validating", "in_progress"):
                cancelling = structs.replace(batch, status="cancelling", cancelling_at=int(time.time()))
                batch = _write(database, cancelling)
            return batch

        if not self.storage.exists:
            raise _unknown(name)
        return await self.storage.run(work)

    async def take_up(self, models: Collection[str]) -> list[str]:
        """Unfinished batches for these models whose server is gone; they are this server's from here on."""
        owner, is_left = self.storage.owner, self.storage.is_left

        def work(database: sqlite3.Connection) -> list[str]:
            rows = database.execute("SELECT id, owner, model FROM batches WHERE owner IS NOT NULL").fetchall()
            mine = [row[0] for row in rows if (row[2] is None or row[2] in models) and is_left(row[1])]
            for name in mine:
                database.execute("UPDATE batches SET owner = ? WHERE id = ?", (owner, name))
            return mine

        return await self.storage.run(work)

    def _end(self, database: sqlite3.Connection, batch: Batch, owner: str) -> None:
        if not _owns(database, owner, batch.id):
            return  # it has been ended meanwhile
        now = int(time.time())
        ends: dict[str, object] = {}
        for failed, field, suffix in ((0, "output_file_id", "output"), (1, "error_file_id", "error")):
            file = self._write_file(database, batch, failed=failed, filename=f"{batch.id}_{suffix}.jsonl", now=now)
            if file is not None:
                insert_file(database, file)
                ends[field] = file.id
        if batch.status == "cancelling":
            ends |= {"status": "cancelled", "cancelled_at": now}
        elif batch.expired_at is not None:
            ends["status"] = "expired"
        else:
            ends |= {"status": "completed", "completed_at": now}
        _write(database, structs.replace(_counted(database, batch), **ends))
        database.execute("DELETE FROM batch_lines WHERE batch = ?", (batch.id,))

    def _write_file(
        self, database: sqlite3.Connection, batch: Batch, *, failed: int, filename: str, now: int
    ) -> FileObject | None:
        """One of the files, in the order of the input; None if it would be empty."""
        rows = database.execute(
            "SELECT result FROM batch_lines WHERE batch = ? AND failed = ? ORDER BY number", (batch.id, failed)
        )
        name = f"file-{uuid.uuid4().hex}"
        size = 0
        path = self.storage.files / name
        with path.open("xb") as file:
            for row in rows:
                size += file.write(row[0] + b"\n")
        if not size:
            path.unlink()
            return None
        return FileObject(id=name, bytes=size, created_at=now, filename=filename, purpose="batch_output")


def _find(database: sqlite3.Connection, name: str) -> Batch:
    """A batch with its counts, for which all its lines are looked at."""
    return _counted(database, _stored(database, name))


def _stored(database: sqlite3.Connection, name: str) -> Batch:
    row = database.execute("SELECT batch FROM batches WHERE id = ?", (name,)).fetchone()
    if row is None:
        raise _unknown(name)
    return _decode(row[0])


def _counted(database: sqlite3.Connection, batch: Batch) -> Batch:
    """With the counts of its lines, which a batch that has ended no longer has."""
    if batch.status in FINAL:
        return batch
    total, completed, failed = database.execute(
        "SELECT COUNT(*), COALESCE(SUM(failed = 0), 0), COALESCE(SUM(failed), 0) FROM batch_lines WHERE batch = ?",
        (batch.id,),
    ).fetchone()
    return structs.replace(batch, request_counts=RequestCounts(total=total, completed=completed, failed=failed))


def _owns(database: sqlite3.Connection, owner: str, name: str) -> bool:
    """Whether a batch is an owner's to finish; one that has ended is nobody's."""
    found = database.execute("SELECT 1 FROM batches WHERE id = ? AND owner = ?", (name, owner))
    return found.fetchone() is not None


def _write(database: sqlite3.Connection, batch: Batch) -> Batch:
    database.execute("UPDATE batches SET batch = ? WHERE id = ?", (_encode(batch), batch.id))
    if batch.status in FINAL:
        database.execute("UPDATE batches SET owner = NULL WHERE id = ?", (batch.id,))
    return batch


def _left(database: sqlite3.Connection, name: str) -> bool:
    found = database.execute("SELECT 1 FROM batch_lines WHERE batch = ? AND result IS NULL LIMIT 1", (name,))
    return found.fetchone() is not None


def _close_lines(database: sqlite3.Connection, batch: Batch) -> None:
    """Say of each line that has no result why it has none."""
    if batch.status == "cancelling":
        error = LineError(code="batch_cancelled", message="The batch was cancelled before this line was run.")
    else:
        error = LineError(code="batch_expired", message="The batch's time was over before this line was run.")
    rows = database.execute(
        "SELECT number, line FROM batch_lines WHERE batch = ? AND result IS NULL", (batch.id,)
    ).fetchall()
    for number, line in rows:
        custom_id: str = msgspec.json.decode(line)["custom_id"]
        result = OutputLine(id=_request_id(), custom_id=custom_id, error=structs.replace(error, line=number))
        database.execute(
            "UPDATE batch_lines SET failed = 1, result = ? WHERE batch = ? AND number = ?",
            (_encode(result), batch.id, number),
        )


def _request_id() -> str:
    return f"batch_req_{uuid.uuid4().hex}"


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(f"There is no batch {name[:128]!r} here.", param="batch_id", code="batch_not_found")
