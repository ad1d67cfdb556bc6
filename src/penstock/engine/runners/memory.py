"""How much memory this process may use, containers' limits included."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.core.limits import read_text

if TYPE_CHECKING:
    from collections.abc import Iterator

# glibc's mallopt parameters, and the values we set: blocks up to 32 MiB (the most it takes) come from the heap,
# which keeps that much free memory at its top.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 128 << 20
_HEAP_BLOCK_BYTES = 32 << 20


def available_memory(root: Path = Path("/")) -> int:
    """Bytes left: the least of what the machine reports as available and what each enclosing cgroup leaves.

    Page cache that the kernel can drop (`inactive_file`) is charged to a cgroup but not in use.
    """
    left = _machine_memory(root)
    for folder, limit_file, usage_file in _memory_groups(root):
        limit, usage = read_text(folder / limit_file), read_text(folder / usage_file)
        if limit.isdecimal() and usage.isdecimal():
            left = min(left, int(limit) - max(0, int(usage) - _droppable(folder)))
    return max(0, left)


def keep_freed_memory() -> None:
    """Give back what is free now, then let glibc's allocator keep what is freed from here on for the next step.

    A step's temporaries are freed within it. By default they go back to the system, and each page of the next
    step's is zeroed and mapped anew, which takes as long as computing it.
    """
    if sys.platform != "linux":
        return
    import ctypes

    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt"):
        libc.malloc_trim(0)
        libc.mallopt(_M_MMAP_THRESHOLD, _HEAP_BLOCK_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _memory_groups(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Our memory cgroup and all above it, with the names of their files for limit and usage.

    In a container the path may name the host's hierarchy while the mount shows only our own group; what isn't
    there reads as "no limit", and the mount itself is always looked at.
    """
    mount = root / "sys/fs/cgroup"
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, files = mount, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base, files = mount / controllers, ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        own = base / path.strip("/")
        while own.is_relative_to(base):
            yield own, *files
            own = own.parent


def _machine_memory(root: Path) -> int:
    for line in read_text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    import psutil  # type: ignore[import-untyped]  # elsewhere than on Linux; its import takes longer than the reading

    return int(psutil.virtual_memory().available)


def _droppable(folder: Path) -> int:
    statistics = dict(line.partition(" ")[::2] for line in read_text(folder / "memory.stat").splitlines())
    return int(statistics.get("total_inactive_file") or statistics.get("inactive_file") or 0)
