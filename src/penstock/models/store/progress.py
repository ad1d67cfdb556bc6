"""How a pull tells the person who waits for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, the bytes done, and the bytes in all (None: not known). May come from a thread."""


def silent(stage: str, done: int, total: int | None) -> None:
    """The progress report of a caller that wants none."""


@contextmanager
def watching(directory: Path, stage: str, total: int, progress: Progress, interval: float = 0.2) -> Iterator[None]:
    """Report how `directory` grows while someone else's code fills it.

    The downloaders are other programs and libraries; the size on disk is the one report that all of them give.
    """
    finished = threading.Event()

    def report() -> None:
        while not finished.wait(interval):
            progress(stage, min(tree_size(directory), total), total)

    progress(stage, 0, total)
    thread = threading.Thread(target=report, name="pull-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
    progress(stage, total, total)


def tree_size(directory: Path) -> int:
    """Bytes of all files under `directory`; one that vanishes while being counted counts nothing."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(folder) / name).lstat().st_size
    return total
