"""The folder that a measurement is kept in: whether it can be written is found out before anything is measured."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from penstock.core.errors import ConfigError, RecordError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def prepare(folder: Path | None, param: str = "out") -> None:
    """Make it where it is none, and write a file that is gone again. Raises ConfigError if that can't be done."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as tried:
            tried.write(b"x")
    except OSError as error:
        flag = param.replace("_", "-")
        raise ConfigError(
            f"--{flag}: nothing can be written to {folder}: {error.strerror}. Nothing was measured.", param=param
        ) from error


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What goes wrong with files in `folder` meanwhile is a RecordError."""
    try:
        yield
    except OSError as error:
        raise RecordError(f"{folder} can't be written: {error.strerror}.") from error


def write(path: Path, content: str) -> None:
    """Its folder is made where it is none. Raises RecordError if it can't be written."""
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
