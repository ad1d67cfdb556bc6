"""The fingerprint, read from pretended /proc, /sys and /etc trees."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING

import msgspec
import pytest

from penstock.core import processor
from penstock.core.limits import cgroup_limits, usable_cpus
from penstock.core.machine import Machine, fingerprint, read_bandwidth

if TYPE_CHECKING:
    from pathlib import Path

INTEL = """processor\t: 0
model name\t: Intel(R) Xeon(R) Processor
flags\t\t: fpu sse2 avx2 fma avx512f avx512_vnni avx512_bf16 amx_tile amx_int8 amx_bf16 hypervisor

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
ARM = """processor\t: 0
Features\t: fp asimd asimddp i8mm bf16 sve
CPU implementer\t: 0x41
CPU part\t: 0xd0c
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with nothing in it, and no system tools to ask instead."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_an_intel_machine_is_read_from_its_files(root: Path) -> None:
    put(root, "proc/cpuinfo", INTEL)
    put(root, "proc/meminfo", "MemTotal:       2048 kB\nMemFree: 1 kB\n")
    put(root, "etc/os-release", 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
    put(root, "sys/devices/system/cpu/cpu0/cache/index2/size", "2048K\n")
    put(root, "sys/devices/system/cpu/cpu0/cache/index3/size", "480M\n")
    found = fingerprint(root=root)
    assert found.cpu_model == "Intel(R) Xeon(R) Processor"
    assert set(found.cpu_flags) >= {"amx_int8", "amx_bf16", "avx512_vnni", "avx512_bf16", "avx2", "hypervisor"}
    assert "fpu" not in found.cpu_flags
    assert found.memory_bytes == 2048 * 1024
    assert found.last_level_cache_bytes == 480 << 20
    assert found.os == "Debian GNU/Linux 12 (bookworm)"
    assert found.read_bandwidth is None
    assert found.gpus == ()


def test_an_arm_machine_has_its_flags_under_the_common_names(root: Path) -> None:
    put(root, "proc/cpuinfo", ARM)
    found = fingerprint(root=root)
    assert found.cpu_flags == ("bf16", "dotprod", "i8mm", "neon", "sve")
    assert found.cpu_model == "ARM implementer 0x41 part 0xd0c"


def test_a_machine_that_tells_nothing_still_has_a_fingerprint(root: Path) -> None:
    found = fingerprint(root=root)
    assert (found.memory_bytes, found.last_level_cache_bytes) == (0, 0)
    assert (found.cgroup_cpus, found.cgroup_memory_bytes) == (None, None)
    assert found.usable_cpus >= 1


def test_the_fingerprint_survives_json_and_names_no_host() -> None:
    found = fingerprint()
    data = msgspec.json.encode(found)
    assert msgspec.json.decode(data, type=Machine) == found
    assert f'"{os.uname().nodename}"'.encode() not in data


def test_the_tightest_limit_from_the_own_cgroup_up_to_the_root_counts(root: Path) -> None:
    put(root, "proc/self/cgroup", "0::/pod/container\n")
    put(root, "sys/fs/cgroup/pod/container/cpu.max", "max 100000\n")
    put(root, "sys/fs/cgroup/pod/container/memory.max", "8589934592\n")
    put(root, "sys/fs/cgroup/pod/cpu.max", "150000 100000\n")
    put(root, "sys/fs/cgroup/pod/memory.max", "4294967296\n")
    put(root, "sys/fs/cgroup/memory.max", "max\n")
    assert cgroup_limits(root) == (1.5, 4 << 30)


def test_a_container_that_sees_itself_as_the_root_is_limited(root: Path) -> None:
    put(root, "proc/self/cgroup", "0::/\n")
    put(root, "sys/fs/cgroup/cpu.max", "200000 100000")
    put(root, "sys/fs/cgroup/memory.max", "1048576")
    assert cgroup_limits(root) == (2.0, 1 << 20)


def test_version_1_limits_are_read_and_its_no_limit_is_none(root: Path) -> None:
    put(root, "proc/self/cgroup", "4:memory:/box\n3:cpu,cpuacct:/box\n1:name=systemd:/x\n")
    put(root, "sys/fs/cgroup/memory/box/memory.limit_in_bytes", "2147483648\n")
    put(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    put(root, "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "50000\n")
    put(root, "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n")
    put(root, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n")
    put(root, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    assert cgroup_limits(root) == (0.5, 2 << 30)


@pytest.mark.parametrize("limit", ["garbage", "1 2 3", "100000 0", "-5 100000", ""])
def test_a_limit_that_makes_no_sense_is_no_limit(root: Path, limit: str) -> None:
    put(root, "proc/self/cgroup", "0::/\n")
    put(root, "sys/fs/cgroup/cpu.max", limit)
    put(root, "sys/fs/cgroup/memory.max", limit)
    assert cgroup_limits(root) == (None, None)


def install_tool(root: Path, name: str, script: str) -> None:
    put(root, f"bin/{name}", f"#!/bin/sh\n{script}\n")
    (root / "bin" / name).chmod(stat.S_IRWXU)


def test_nvidia_gpus_are_listed_in_bytes(root: Path) -> None:
    install_tool(root, "nvidia-smi", "echo 'NVIDIA H200, 143771, 570.86'; echo 'NVIDIA T4, [N/A], 570.86'")
    first, second = fingerprint(root=root).gpus
    assert (first.name, first.memory_bytes, first.driver) == ("NVIDIA H200", 143771 << 20, "570.86")
    assert second.memory_bytes == 0


@pytest.mark.parametrize("script", ["exit 9", "echo 'No devices were found'"])
def test_a_driver_tool_without_a_gpu_gives_none(root: Path, script: str) -> None:
    install_tool(root, "nvidia-smi", script)
    assert fingerprint(root=root).gpus == ()


def test_a_driver_tool_that_hangs_is_given_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_tool(root, "nvidia-smi", "exec /bin/sleep 60")
    monkeypatch.setattr(processor, "_COMMAND_TIMEOUT_S", 0.1)
    start = time.monotonic()
    assert fingerprint(root=root).gpus == ()
    assert time.monotonic() - start < 30


def test_amd_gpus_are_listed_and_other_cards_are_not(root: Path) -> None:
    put(root, "sys/class/drm/card0/device/vendor", "0x1002\n")
    put(root, "sys/class/drm/card0/device/mem_info_vram_total", "206158430208\n")
    put(root, "sys/class/drm/card0/device/product_name", "Instinct MI300X\n")
    put(root, "sys/class/drm/card1/device/vendor", "0x8086\n")
    put(root, "sys/class/drm/card1/device/mem_info_vram_total", "1\n")
    (gpu,) = fingerprint(root=root).gpus
    assert (gpu.name, gpu.memory_bytes) == ("Instinct MI300X", 192 << 30)


def test_affinity_bounds_the_usable_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3}, raising=False)
    assert usable_cpus() == 1


@pytest.mark.parametrize("threads", [1, 2, None])
def test_read_bandwidth_is_what_some_memory_could_do(threads: int | None) -> None:
    measured = read_bandwidth(4 << 20, threads=threads, repeats=2)
    assert 1e7 < measured < 1e14


def test_the_governors_of_all_processors_are_read(root: Path) -> None:
    for policy, governor in (("policy0", "performance"), ("policy1", "powersave"), ("policy2", "performance")):
        put(root, f"sys/devices/system/cpu/cpufreq/{policy}/scaling_governor", f"{governor}\n")
    assert fingerprint(root=root).governor == "performance, powersave"


def test_hardware_is_the_same_under_another_kernel_and_another_under_other_limits(root: Path) -> None:
    found = fingerprint(root=root)
    updated = msgspec.structs.replace(found, kernel="Linux 99", python="CPython 9", read_bandwidth=1e9)
    assert updated.hardware() == found.hardware()
    assert msgspec.structs.replace(found, cgroup_cpus=1.5).hardware() != found.hardware()
    assert msgspec.structs.replace(found, governor="powersave").hardware() != found.hardware()
