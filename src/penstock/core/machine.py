"""The machine's fingerprint: what a measurement ran on, as far as it can change the figure.

Nothing in it names the machine or its owner: no host name, no address, no serial number.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from penstock.core.limits import cgroup_limits, read_text, usable_cpus
from penstock.core.processor import command_output, cpu_model, cpuinfo
from penstock.core.torch_extra import require

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

# Instruction sets that decide which matrix kernels can run; the kernel's name -> the name used here.
_FLAGS_THAT_MATTER = {
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx_vnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512vl": "avx512vl",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16",
    "amx_tile": "amx_tile",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
    "amx_fp16": "amx_fp16",
    "hypervisor": "hypervisor",
    "neon": "neon",
    "asimd": "neon",
    "asimddp": "dotprod",
    "asimdhp": "fp16",
    "bf16": "bf16",
    "i8mm": "i8mm",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
}


class Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One GPU as its driver names it."""

    name: str
    memory_bytes: int
    driver: str


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hardware, limits and software under a measurement. 0 or "" stands for what could not be read."""

    cpu_model: str
    architecture: str  # as `uname -m` says: "x86_64", "aarch64", "arm64"
    logical_cpus: int  # of the machine
    usable_cpus: int  # this process may run on; a cgroup's quota is apart, in `cgroup_cpus`
    cpu_flags: tuple[str, ...]  # sorted; only those that matter to matrix kernels, and "hypervisor"
    last_level_cache_bytes: int
    memory_bytes: int  # of the machine
    cgroup_cpus: float | None  # CPU quota in cores; None: no limit
    cgroup_memory_bytes: int | None  # None: no limit
    os: str
    kernel: str
    python: str
    gpus: tuple[Gpu, ...] = ()
    read_bandwidth: float | None = None  # bytes/s out of main memory, all usable CPUs together, if measured
    governor: str = ""  # of the processors' frequency, as the kernel names it; several with commas

    def hardware(self) -> str:
        """12 hexadecimal digits that two fingerprints share if figures taken on them may stand in one trend.

        Hardware and limits count. What is installed on it (kernel, Python, driver) doesn't, since a trend should show
        what an update did, nor what a measurement says of it, nor memory to the last page, which the firmware's
        version decides.
        """
        parts = (
            self.cpu_model, self.architecture, self.logical_cpus, self.usable_cpus, self.cpu_flags,
            self.last_level_cache_bytes, round(self.memory_bytes / 2**28), self.cgroup_cpus, self.cgroup_memory_bytes,
            self.governor, [(gpu.name, gpu.memory_bytes) for gpu in self.gpus],
        )  # fmt: skip
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:12]


def fingerprint(*, measure_bandwidth: bool = False, root: Path = Path("/")) -> Machine:
    """Read the machine. Takes milliseconds; with `measure_bandwidth`, about a second and 1 GiB of memory.

    Args:
        measure_bandwidth: fill in `read_bandwidth`; needs numpy.
        root: where `proc`, `sys` and `etc` are found.
    """
    cpu_limit, memory_limit = cgroup_limits(root)
    return Machine(
        cpu_model=cpu_model(root),
        architecture=platform.machine(),
        logical_cpus=os.cpu_count() or 0,
        usable_cpus=usable_cpus(),
        cpu_flags=_cpu_flags(root),
        last_level_cache_bytes=_last_level_cache(root),
        memory_bytes=_memory_bytes(root),
        cgroup_cpus=cpu_limit,
        cgroup_memory_bytes=memory_limit,
        os=_os_name(root),
        kernel=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        gpus=(*_nvidia_gpus(), *_amd_gpus(root)),
        read_bandwidth=read_bandwidth() if measure_bandwidth else None,
        governor=_governor(root),
    )


_ROW = 8192  # float64 in a row of what `read_bandwidth` reads


def read_bandwidth(nbytes: int = 1 << 30, *, threads: int | None = None, repeats: int = 5) -> float:
    """Bytes/s that `threads` threads read from an array of `nbytes` bytes: the best of `repeats` passes.

    A lower bound of what the hardware can do: numpy's dot product and sum are tried and the faster one counts. The dot
    product goes row by row, each too short for a BLAS library to share it out to threads of its own.
    An array that fits into the last-level cache measures the cache. Raises ConfigError without numpy, which comes with
    the extra `torch`.
    """
    require("Measuring the read bandwidth", "numpy")
    import numpy as np

    threads = threads or usable_cpus()
    rows = max(nbytes // (8 * _ROW), threads)
    array = np.ones((rows, _ROW), dtype=np.float64)  # written once, so that every page is there
    parts = np.array_split(array, threads)
    kernels: tuple[Callable[[NDArray[np.float64]], object], ...] = (np.sum, lambda part: np.vecdot(part, part))
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for kernel in kernels:
            for _ in range(repeats):
                start = time.perf_counter()
                list(pool.map(kernel, parts))
                best = max(best, array.nbytes / (time.perf_counter() - start))
    return best


def _cpu_flags(root: Path) -> tuple[str, ...]:
    info = cpuinfo(root)
    present = (info.get("flags") or info.get("Features") or "").split()
    if not present and platform.machine() == "arm64":
        present = ["neon"]  # part of the base architecture, and macOS has no list of this kind
    return tuple(sorted({_FLAGS_THAT_MATTER[flag] for flag in present if flag in _FLAGS_THAT_MATTER}))


def _last_level_cache(root: Path) -> int:
    sizes = [
        int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]
        for path in root.glob("sys/devices/system/cpu/cpu0/cache/index*/size")
        if (match := re.fullmatch(r"(\d+)([KMG]?)", read_text(path)))
    ]
    return max(sizes, default=0)


def _governor(root: Path) -> str:
    names = {read_text(path) for path in root.glob("sys/devices/system/cpu/cpufreq/policy*/scaling_governor")}
    return ", ".join(sorted(names - {""}))


def _memory_bytes(root: Path) -> int:
    if match := re.search(r"^MemTotal:\s+(\d+) kB", read_text(root / "proc/meminfo"), re.MULTILINE):
        return int(match[1]) * 1024
    total = command_output("sysctl", "-n", "hw.memsize")
    return int(total) if total.isdecimal() else 0


def _os_name(root: Path) -> str:
    if match := re.search(r'^PRETTY_NAME="?([^"\n]+)"?$', read_text(root / "etc/os-release"), re.MULTILINE):
        return match[1]
    return f"{platform.system()} {platform.mac_ver()[0]}".strip()


def _nvidia_gpus() -> tuple[Gpu, ...]:
    table = command_output(
        "nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"
    )
    rows = [[cell.strip() for cell in line.split(",")] for line in table.splitlines()]
    return tuple(Gpu(row[0], int(row[1]) << 20 if row[1].isdecimal() else 0, row[2]) for row in rows if len(row) == 3)


def _amd_gpus(root: Path) -> tuple[Gpu, ...]:
    found = []
    for device in sorted(root.glob("sys/class/drm/card[0-9]*/device")):
        memory = read_text(device / "mem_info_vram_total")
        if read_text(device / "vendor") == "0x1002" and memory.isdecimal():
            name = read_text(device / "product_name") or f"AMD {read_text(device / 'device')}"
            found.append(Gpu(name, int(memory), read_text(root / "sys/module/amdgpu/version")))
    return tuple(found)
