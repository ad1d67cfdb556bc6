"""The output of an offline run: JSONL, one finished prompt a line, in the order they finish.

Every line carries `run`, a fingerprint of input, model and parameters. That is what lets an interrupted run go
on: the lines that are there are done, a last line torn by a crash is cut off, and a file from another run is
left alone.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.core.errors import ConfigError, InvalidRequestError, PenstockError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self


class _Known(msgspec.Struct):
    """What of a finished line matters for going on."""

    index: int
    run: str
    error: dict[str, Any] | None = None


class AnswerFile:
    """Holds the output open and locked for one run.

    Args:
        path: made if it isn't there.
        run: this run's fingerprint.
        count: how many prompts the input has.
        overwrite: start again, whatever the file holds.

    Raises:
        InvalidRequestError: it holds another run's answers, or something else.
        ConfigError: another process is writing it, or it can't be written.
    """

    def __init__(self, path: Path, run: str, count: int, *, overwrite: bool) -> None:
        self._path = path
        self._run = run
        self.done: set[int] = set()  # indices of the prompts that are finished
        self.failed = 0  # how many of them with an error
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path} is not a regular file, so a run could not go on with it.", param="output")
        try:
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise ConfigError(f"{path} can't be written: {error.strerror}.", param="output") from error
        try:
            self._lock()
            if overwrite:
                self._file.truncate(0)
            self._recover(count)
        except BaseException:
            self._file.close()
            raise

    def write(self, answer: dict[str, Any]) -> None:
        """Append one line, whole or not at all. Raises PenstockError if the disk is full."""
        line = msgspec.json.encode({**answer, "run": self._run}) + b"\n"
        end = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(line)
            if written != len(line):
                self._file.write(line[written:])  # says why the rest did not fit
        except OSError as error:
            self._file.truncate(end)  # a shorter file needs no space
            raise PenstockError(
                f"{self._path} could not be written: {error.strerror}. What is finished is kept; "
                "run the same command again to go on.",
                code="not_writable",
            ) from error
        self.done.add(answer["index"])
        self.failed += "error" in answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"Another process is writing {self._path} just now.", param="output") from None

    def _recover(self, count: int) -> None:
        """Learn which prompts are done, and cut off a torn last line."""
        self._file.seek(0)
        whole = 0  # bytes up to the end of the last whole line
        with os.fdopen(os.dup(self._file.fileno()), "rb") as reader:
            for number, line in enumerate(reader, start=1):
                if not line.endswith(b"\n"):
                    self._check_torn(line)
                    break
                self._remember(line, number, count)
                whole += len(line)
        self._file.truncate(whole)

    def _check_torn(self, line: bytes) -> None:
        # Only ever cut what this program could have written: its lines begin with the index.
        beginning = b'{"index":'
        if not line.startswith(beginning[: len(line)]):
            raise self._foreign("its last line is not an answer")

    def _remember(self, line: bytes, number: int, count: int) -> None:
        try:
            known = msgspec.json.decode(line, type=_Known)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise self._foreign(f"line {number} is not an answer") from None
        if known.run != self._run or not 0 <= known.index < count:
            raise self._foreign("its answers were made with another input, model or parameters")
        self.done.add(known.index)
        self.failed += known.error is not None

    def _foreign(self, why: str) -> InvalidRequestError:
        return InvalidRequestError(
            f"{self._path} is there already and can't be continued: {why}. Name another output file, "
            "or say --overwrite to replace it.",
            param="output",
            code="another_run",
        )
