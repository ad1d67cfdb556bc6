"""What this process may use of the machine: its CPUs, and what its cgroups allow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def usable_cpus() -> int:
    """How many CPUs this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def cgroup_limits(root: Path = Path("/")) -> tuple[float | None, int | None]:
    """(cores, bytes) that this process's cgroup and those above it allow; None where nothing limits.

    See the kernel's `admin-guide/cgroup-v2` (`cpu.max`, `memory.max`) and `cgroup-v1`.
    """
    cpus: list[float] = []
    memory: list[int] = []
    for folder in _cgroup_folders(root):
        quota, _, period = (read_text(folder / "cpu.max") or _v1_cpu_max(folder)).partition(" ")
        if quota.isdecimal() and period.isdecimal() and int(period):
            cpus.append(int(quota) / int(period))
        limit = read_text(folder / "memory.max") or read_text(folder / "memory.limit_in_bytes")
        if limit.isdecimal() and int(limit) < 1 << 60:  # v1 says "no limit" with a number near 2**63
            memory.append(int(limit))
    return min(cpus, default=None), min(memory, default=None)


def read_text(path: Path) -> str:
    """The file's text without surrounding whitespace; empty if it can't be read (a container may hide it)."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _cgroup_folders(root: Path) -> Iterator[Path]:
    """Every folder whose limits bind this process: its own and all above it, for each controller."""
    mount = root / "sys/fs/cgroup"
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        base = mount / controllers if controllers else mount  # v1 mounts one tree a controller, v2 one in all
        own = base / path.strip("/")
        while own.is_relative_to(base):
            yield own
            own = own.parent


def _v1_cpu_max(folder: Path) -> str:
    return f"{read_text(folder / 'cpu.cfs_quota_us')} {read_text(folder / 'cpu.cfs_period_us')}"
