"""Packed weights between starts: for each model and way of packing one file in the cache directory.

The key says which weights a file was made of and how; it stands in the file too, and is compared byte for byte, so a
model that was changed is packed again. Files whose model is gone or was changed, and those of other versions, are
removed when another is written.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from penstock import _native
from penstock.core.paths import cache_dir
from penstock.core.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

# Packing less takes no time worth a file.
LEAST_BYTES = 16 << 20
_HEADER_BYTES = 1 << 16
_STALE_SECONDS = 3600  # a partial file this old belongs to no process that still writes it


class PackedFile:
    """Where the packed weights of the model in `sources` are kept.

    Args:
        sources: the model's files.
        how: what else the packed bytes depend on.

    Attributes:
        path: the file, whether or not it is there.
        key: what must stand in it.

    Raises:
        OSError: one of the sources is gone.
    """

    def __init__(self, sources: Sequence[Path], how: str) -> None:
        self.key = "\n".join([how, *(_identity(source) for source in sources)])
        name = hashlib.sha256(self.key.encode(errors="surrogateescape")).hexdigest()[:24]
        self.path = _folder() / f"{name}.packed"

    def write_aside(self, weights: _native.PackedWeights, nbytes: int) -> threading.Thread:
        """Write on a thread of its own; where that fails, the log says why, and nothing else is lost."""
        thread = threading.Thread(target=self._write, args=(weights, nbytes), name="keep-packed", daemon=True)
        thread.start()
        return thread

    def _write(self, weights: _native.PackedWeights, nbytes: int) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            remove_outdated()
            free = shutil.disk_usage(self.path.parent).free
            if free < 2 * nbytes:
                log.warning(
                    "The packed weights aren't kept for the next start: they take %s, and %s has %s left.",
                    format_size(nbytes), self.path.parent, format_size(free),
                )  # fmt: skip
                return
            weights.write(str(self.path), self.key)
        except (OSError, _native.NativeError) as error:
            log.warning("The packed weights aren't kept for the next start: %s", error)


def _folder() -> Path:
    return cache_dir() / "packed"


def _identity(source: Path) -> str:
    real = source.resolve(strict=True)
    found = real.stat()
    return f"{found.st_size} {found.st_mtime_ns} {real}"


def remove_outdated() -> None:
    """Remove what no start would take any more. Raises OSError where the folder can't be read or changed."""
    folder = _folder()
    for path in folder.glob("*.packed"):
        magic, sources = _header(path)
        if magic != _native.PACKED_MAGIC or not all(map(_is_current, sources)):
            path.unlink(missing_ok=True)
    for path in folder.glob("*.partial"):
        if path.stat().st_mtime < time.time() - _STALE_SECONDS:
            path.unlink(missing_ok=True)


def _header(path: Path) -> tuple[str, list[str]]:
    """A file's first line, which tells the version, and the lines of its key that name the model's files."""
    with path.open("rb") as file:
        lines = os.fsdecode(file.read(_HEADER_BYTES).partition(b"\0")[0]).splitlines()
    return lines[0] if lines else "", lines[3:]  # between them: the size, and how it was packed


def _is_current(identity: str) -> bool:
    try:
        return identity == _identity(Path(identity.split(" ", 2)[2]))
    except (OSError, IndexError):
        return False
