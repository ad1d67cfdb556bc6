"""One mode in a process of its own: started, listened to, and ended with everything it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from penstock.lab.bench.compile_study.trial import Answer, Ask, Done, Failed, Progress, Told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

WORKER = (sys.executable, "-m", "penstock.lab.bench.compile_study.worker")
_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Ran:
    """How it ended: with an answer, or with the reason why there is none."""

    seconds: float
    answer: Answer | None
    failure: str = ""


def run(ask: Ask, cache: Path, limit: float, doing: Callable[[str], None], *, command: Sequence[str] = WORKER) -> Ran:
    """Run it with the compilers' caches in `cache`, for at most `limit` seconds.

    Whatever happens inside is in the result; only KeyboardInterrupt and a process that can't be started are raised.
    """
    began = time.monotonic()
    environment = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
    }
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment,
            start_new_session=True,  # a group of its own, to be ended with the compilers that it started
        )  # fmt: skip
        late = threading.Event()

        def end() -> None:
            late.set()
            _end_group(process.pid)

        timer = threading.Timer(limit, end)
        timer.start()
        told: Told | None = None
        try:
            for what in _listen(process, ask):
                if isinstance(what, Progress):
                    doing(what.doing)
                told = what
            code = process.wait()
        finally:
            timer.cancel()
            _end_group(process.pid)
            process.wait()
        seconds = time.monotonic() - began
        if isinstance(told, Done):
            return Ran(seconds, told.answer)
        if late.is_set():
            during = f", during {told.doing}" if isinstance(told, Progress) else ""
            return Ran(seconds, None, f"took longer than {limit:g} s{during}")
        if isinstance(told, Failed):
            return Ran(seconds, None, told.reason)
        return Ran(seconds, None, _death(code, errors))


def _listen(process: subprocess.Popen[bytes], ask: Ask) -> Iterator[Told]:
    if process.stdin is None or process.stdout is None:
        raise ValueError("A worker is started with pipes.")
    with suppress(BrokenPipeError), process.stdin:  # it died at once; why is in what it said
        process.stdin.write(msgspec.json.encode(ask))
    with process.stdout:
        for line in process.stdout:
            if not line.endswith(b"\n"):  # it was ended while it said this
                return
            yield msgspec.json.decode(line, type=Told)


def _end_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # it has ended; on macOS a group of dead ones is refused
        os.killpg(pid, signal.SIGKILL)


def _death(code: int, errors: BinaryIO) -> str:
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - _TAIL_BYTES))
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"{how}: {lines[-1]}" if lines else how
