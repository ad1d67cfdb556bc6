"""How a model enters the store: built out of sight, then renamed into place.

    <cache>/models/<key>/            complete models, and nothing else
    <cache>/partial/<key>/           what a pull is building; resumed or cleaned by the next pull
    <cache>/partial/<key>.lock       held by that pull with flock, so that two never build the same model

A rename of a directory is atomic, so whatever kills a pull (kill -9, power, a full disk) leaves either the old
state or the new one visible. Lock files are never deleted: a waiter may already have them open.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from penstock.core.errors import StoreError
from penstock.core.paths import cache_dir
from penstock.core.sizes import format_size
from penstock.models.store.entry import Manifest, write_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.models.store.progress import Progress

ABANDONED_AFTER = 24 * 3600  # seconds: someone may still want to resume a younger download of another model
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def models_dir() -> Path:
    return cache_dir() / "models"


def partial_dir() -> Path:
    return cache_dir() / "partial"


def key_of(name: str) -> str:
    """A directory's name for a model's name; reads alike."""
    return re.sub(r"[^\w.-]", "--", name.replace("/", "--"), flags=re.ASCII).strip(".")


@contextmanager
def claimed(key: str, progress: Progress, *, wait: bool = True) -> Iterator[Path]:
    """Hold the right to change `key`, and yield its building directory, which may hold leftovers to resume.

    Raises StoreError if the store can't be written to, or, with `wait` off, if another process holds the claim.
    """
    with storage_errors():
        partial_dir().mkdir(parents=True, exist_ok=True)
        lock = (partial_dir() / f"{key}.lock").open("ab")
    with lock:
        with storage_errors():
            _lock(lock.fileno(), key, progress, wait=wait)
        yield partial_dir() / key


def _lock(fileno: int, key: str, progress: Progress, *, wait: bool) -> None:
    try:
        fcntl.flock(fileno, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            raise StoreError(f"{key} is being pulled by another process just now; try again later.") from None
        progress(f"waiting for another process that pulls {key}", 0, None)
        fcntl.flock(fileno, fcntl.LOCK_EX)


def publish(built: Path, key: str, manifest: Manifest) -> Path:
    """Move the finished directory `built` into the store as `key`, replacing what was there; returns its place."""
    write_manifest(built, manifest)
    for folder, _, names in os.walk(built, topdown=False):
        for name in names:
            _fsync(os.path.join(folder, name))  # noqa: PTH118 (os.walk speaks strings)
        _fsync(folder)
    place = models_dir() / key
    models_dir().mkdir(parents=True, exist_ok=True)
    if place.exists():
        place.rename(built.with_name("replaced"))  # a running engine that mapped its files keeps them
    built.rename(place)
    _fsync(models_dir())
    return place


def _fsync(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clean_leftovers(progress: Progress) -> None:
    """Remove what pulls of other models left behind, unless they still run or could soon be resumed."""
    for path in partial_dir().iterdir():
        if not path.is_dir() or time.time() - path.stat().st_mtime < ABANDONED_AFTER:
            continue
        try:
            with claimed(path.name, progress, wait=False):
                shutil.rmtree(path, ignore_errors=True)
        except StoreError:
            continue  # in use


def require_space(needed: int) -> None:
    """Raises StoreError if the store's file system can't take `needed` more bytes."""
    free = shutil.disk_usage(partial_dir()).free
    if free < needed:
        raise StoreError(
            f"Not enough disk space in {cache_dir()}: {format_size(needed)} are needed, {format_size(free)} are free. "
            "Free some, or set PENSTOCK_HOME to a directory on a larger disk.",
            code="disk_full",
        )


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn a full or unwritable disk into a StoreError that says so."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full() from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOLCK}:
            raise StoreError(
                f"The model store can't be written to: {error}. Set PENSTOCK_HOME to a directory of yours.",
                code="not_writable",
            ) from error
        raise


def disk_full() -> StoreError:
    return StoreError(
        f"The disk is full: {cache_dir()} could not take the model. Nothing half-made was left in the store. "
        "Free some space, or set PENSTOCK_HOME to a directory on a larger disk, and pull again.",
        code="disk_full",
    )
