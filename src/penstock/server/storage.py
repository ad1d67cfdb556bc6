"""What outlives a request: responses, files and batches, in one SQLite database below the data directory.

Work that must be taken up again after a crash belongs to an owner, one a server. An owner holds a lock on a file of its
own, which the kernel lets go when its process ends however it ends; so several servers may share a data directory, and
each takes up only what the dead have left.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import uuid
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from penstock.core.errors import ConfigError, StorageError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path

log = logging.getLogger(__name__)

T = TypeVar("T")

BUSY_SECONDS = 30.0  # how long another server's write may hold this one's up

_OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR})

_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, created_at INTEGER NOT NULL, bytes INTEGER NOT NULL, owner TEXT, previous TEXT,
    model TEXT NOT NULL, request BLOB NOT NULL, input BLOB NOT NULL, response BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS responses_by_age ON responses (created_at, bytes);
CREATE INDEX IF NOT EXISTS responses_by_owner ON responses (owner) WHERE owner IS NOT NULL;
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, number INTEGER NOT NULL, expires_at INTEGER, bytes INTEGER NOT NULL, file BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY, number INTEGER NOT NULL, owner TEXT, model TEXT, expires_at INTEGER NOT NULL,
    batch BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS batches_by_owner ON batches (owner) WHERE owner IS NOT NULL;
CREATE TABLE IF NOT EXISTS batch_lines (
    batch TEXT NOT NULL, number INTEGER NOT NULL, line BLOB NOT NULL, failed INTEGER, result BLOB,
    PRIMARY KEY (batch, number)
) STRICT, WITHOUT ROWID;
"""


class Storage:
    """The database and the folder of files beside it, both made at the first use.

    Args:
        directory: where they live.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="storage")
        self._is_made = False

    @property
    def exists(self) -> bool:
        """Whether anything was ever stored here."""
        return self._database.exists()

    @cached_property
    def owner(self) -> str:
        """This server's name among the owners of unfinished work; held from the first call on."""
        name = uuid.uuid4().hex
        path = self._owners / name
        try:
            self._owners.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise _unusable(self.directory, error) from error
        fcntl.flock(lock, fcntl.LOCK_EX)
        self._finalizer = weakref.finalize(self, _leave, lock, path)
        return name

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `work`, one transaction, done in this storage's thread. Raises StorageError."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)

    async def aside(self, work: Callable[[], T]) -> T:
        """The result of `work`, which reads or writes files, done in this storage's thread. Raises StorageError."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except OSError as error:
            if error.errno in _OF_THE_DISK:
                raise _unusable(self.directory, error) from error
            raise

    def is_left(self, owner: str) -> bool:
        """Whether that owner's process is gone."""
        if owner == self.owner:
            return False
        path = self._owners / owner
        try:
            lock = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            path.unlink(missing_ok=True)
            return True
        finally:
            os.close(lock)

    def close(self) -> None:
        """Wait for what is being written, and leave unfinished work to others."""
        self._thread.shutdown()
        if "owner" in self.__dict__:
            self._finalizer()

    @property
    def files(self) -> Path:
        """Contents of files, by their ids."""
        return self.directory / "files"

    @property
    def _owners(self) -> Path:
        return self.directory / "owners"

    @property
    def _database(self) -> Path:
        return self.directory / "penstock.sqlite3"

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        import sqlite3

        try:
            return self._transact_on_disk(work)
        except sqlite3.DatabaseError as error:
            if type(error) in (sqlite3.DatabaseError, sqlite3.OperationalError):  # others are mistakes of ours
                raise _unusable(self.directory, error) from error
            raise

    def _transact_on_disk(self, work: Callable[[sqlite3.Connection], T]) -> T:
        import sqlite3

        if not self._is_made:
            try:
                self._make()
            except OSError as error:
                raise _unusable(self.directory, error) from error
            self._is_made = True
        # A connection of its own each time: opening one takes a tenth of a millisecond, and there is none to lose.
        with closing(sqlite3.connect(self._database, timeout=BUSY_SECONDS, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                result = work(database)
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")
            return result

    def _make(self) -> None:
        import sqlite3

        self.files.mkdir(parents=True, exist_ok=True, mode=0o700)
        with closing(sqlite3.connect(self._database, timeout=BUSY_SECONDS, isolation_level=None)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(_SCHEMA)


def check_directory(directory: Path) -> None:
    """Raises ConfigError if nothing could be kept in `directory`, which need not be there yet."""
    there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"Nothing can be written in {there}. Choose another --data-dir.", param="data_dir")


def _unusable(directory: Path, why: Exception) -> StorageError:
    """The log has the path and the cause, the client neither."""
    log.error("nothing can be kept in %s: %s; see --data-dir", directory, why)
    return StorageError(
        "This server can't use the directory where it keeps responses, files and batches; its log says why. "
        'Responses work without it if the request says "store": false.',
        code="storage_unavailable",
    )


def _leave(lock: int, path: Path) -> None:
    path.unlink(missing_ok=True)
    os.close(lock)
