"""An engine's processes: start them, weigh them, watch what else the machine does, and leave none behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import psutil  # type: ignore[import-untyped]

from penstock.core.errors import ConfigError, EngineDeadError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_STOP_TIMEOUT_S = 30.0


# Whatever the shell says: programs as they are installed have byte code, and compiling anew is a third of a start.
_KEEPS_BYTE_CODE = {"PYTHONDONTWRITEBYTECODE": ""}


class Child:
    """A process and all it starts, in a session of its own. A Python program keeps the byte code that it compiles."""

    def __init__(
        self, command: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None, pipes: bool = False
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self.spawned = time.monotonic()
        pipe = subprocess.PIPE if pipes else subprocess.DEVNULL
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                command,
                stdin=pipe,
                stdout=pipe if pipes else stream,
                stderr=stream,
                env={**os.environ, **_KEEPS_BYTE_CODE, **(env or {})},
                start_new_session=True,
            )
        self._leader = psutil.Process(self._process.pid)

    @property
    def stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def tree(self) -> list[psutil.Process]:
        try:
            return [self._leader, *self._leader.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def check_alive(self) -> None:
        """Raises EngineDeadError, with the log's end, if the process has ended."""
        if (code := self._process.poll()) is not None:
            tail = self.log.read_text(errors="replace")[-3000:]
            raise EngineDeadError(f"The process ended with status {code}; the end of {self.log}:\n{tail}")

    def memory(self) -> Memory:
        """Now, over all processes of the tree."""
        rss = pss = 0
        for process in self.tree():
            try:
                rss += process.memory_info().rss
                pss += _pss(process.pid)
            except psutil.NoSuchProcess:
                continue  # it ended between being listed and being read
        return Memory(rss, pss)

    def cpu_seconds(self) -> float:
        """User and system time of the tree so far, ended children that were waited for included."""
        total = 0.0
        for process in self.tree():
            try:
                total += sum(process.cpu_times()[:4])
            except psutil.NoSuchProcess:
                continue
        return total

    def stop(self) -> None:
        """Ask, wait, then force; returns when nothing of the tree is left."""
        family = self.tree()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(family, timeout=_STOP_TIMEOUT_S)
        for process in alive:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(alive, timeout=_STOP_TIMEOUT_S)
        self._process.wait(timeout=_STOP_TIMEOUT_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a process tree. RSS counts a shared page once per process, PSS once in all."""

    rss: int
    pss: int  # 0 where the system doesn't tell


def _pss(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)


class CpuWatch:
    """Who used the processors between `start` and `stop`: the engine, this client, others, the hypervisor."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._before = self._now()

    def stop(self) -> CpuShares:
        before, after = self._before, self._now()
        wall, peer, client, busy, stolen = (b - a for a, b in zip(before, after, strict=True))
        return CpuShares(peer / wall, client / wall, max(0.0, busy - peer - client) / wall, stolen / wall)

    def _now(self) -> tuple[float, float, float, float, float]:
        cpu = psutil.cpu_times()
        busy = cpu.user + cpu.system + getattr(cpu, "nice", 0.0) + getattr(cpu, "irq", 0.0) + getattr(cpu, "softirq", 0)
        own = time.process_time()
        return time.monotonic(), self._child.cpu_seconds(), own, busy, getattr(cpu, "steal", 0.0)


@dataclass(frozen=True, slots=True)
class CpuShares:
    """Cores in use, on average over a span of time."""

    peer: float
    client: float
    others: float  # any other process: over a few hundredths, the machine was not quiet
    stolen: float  # by other guests of the hypervisor


def pin(cores: int) -> list[int]:
    """Keep this process, and all it will start, on the first `cores` processors; their numbers."""
    if not hasattr(os, "sched_setaffinity"):
        raise ConfigError("Pinning to cores needs Linux.")
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < cores:
        raise ConfigError(f"{cores} cores were asked for, and this process may use {len(usable)}.")
    os.sched_setaffinity(0, usable[:cores])
    return usable[:cores]
