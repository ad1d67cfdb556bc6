"""Where a model runs: what is chosen, what is refused, and how much memory it may take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from penstock.core.errors import ConfigError
from penstock.engine.runners import memory
from penstock.engine.runners.base import RunnerConfig
from penstock.engine.runners.torch import device

if TYPE_CHECKING:
    from pathlib import Path


def config(**fields: object) -> RunnerConfig:
    return RunnerConfig(model_path="unused", **fields)  # type: ignore[arg-type]


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> object:
    """Pretends that torch finds the named accelerator."""

    def pretend(*names: str) -> None:
        monkeypatch.setattr(device, "present_accelerators", lambda: names)

    pretend()
    return pretend


@pytest.mark.parametrize("backend", ["cuda", "rocm", "mps"])
def test_an_unverified_accelerator_stays_off_under_auto_and_is_named(accelerator: object, backend: str) -> None:
    accelerator(backend)  # type: ignore[operator]
    placement = device.choose_placement(config())
    assert placement.device.type == "cpu"
    assert placement.verified
    assert backend in placement.note
    assert "--allow-unverified" in placement.note


@pytest.mark.parametrize(("backend", "name", "dtype"), [
    ("cuda", "cuda", torch.bfloat16), ("rocm", "cuda", torch.bfloat16), ("mps", "mps", torch.float16),
])  # fmt: skip
def test_allow_unverified_uses_the_accelerator_and_says_so(
    accelerator: object, backend: str, name: str, dtype: torch.dtype
) -> None:
    accelerator(backend)  # type: ignore[operator]
    for wanted in ("auto", name):
        placement = device.choose_placement(config(device=wanted, allow_unverified=True))
        assert (placement.device.type, placement.backend, placement.dtype) == (name, backend, dtype)
        assert not placement.verified


def test_asking_for_an_unverified_device_without_the_flag_names_the_flag(accelerator: object) -> None:
    accelerator("cuda")  # type: ignore[operator]
    with pytest.raises(ConfigError, match="--allow-unverified"):
        device.choose_placement(config(device="cuda"))


@pytest.mark.parametrize(("fields", "message"), [
    ({"device": "cuda", "allow_unverified": True}, "finds none"),
    ({"device": "tpu"}, "Unknown device 'tpu'"),
    ({"dtype": "int4"}, "Unknown dtype 'int4'"),
    ({"dtype": "float16", "device": "cpu"}, "choose bfloat16 or float32"),
])  # fmt: skip
def test_what_is_not_there_is_refused_with_the_option_named(
    accelerator: object, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        device.choose_placement(config(**fields))
    assert caught.value.param in fields


@pytest.mark.parametrize(("flags", "expected"), [
    ("flags : sse avx2 avx512f amx_bf16 amx_tile", True),
    ("flags : avx512f avx512_bf16", True),
    ("Features : fp asimd i8mm bf16", True),
    ("flags : sse avx2 avx512f avx512_vnni", False),
    ("model name : a CPU with bf16 in its name", False),
])  # fmt: skip
def test_bfloat16_follows_from_the_flags_of_the_cpu(tmp_path: Path, flags: str, expected: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\n{flags}\n", encoding="utf-8")
    assert device.cpu_has_bf16(cpuinfo) is expected


def test_auto_dtype_on_a_cpu_is_float32_without_native_bfloat16(
    accelerator: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(device, "cpu_has_bf16", lambda native=native: native)
        assert device.choose_placement(config()).dtype == dtype


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


MIB = 1 << 20


def test_memory_left_is_the_least_over_all_enclosing_groups_of_cgroup_v2(tmp_path: Path) -> None:
    root = write(tmp_path, {
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/b/memory.max": "max\n",
        "sys/fs/cgroup/a/b/memory.current": f"{10 * MIB}\n",
        "sys/fs/cgroup/a/memory.max": f"{100 * MIB}\n",
        "sys/fs/cgroup/a/memory.current": f"{70 * MIB}\n",
        "sys/fs/cgroup/a/memory.stat": f"anon 5\ninactive_file {20 * MIB}\n",
    })  # fmt: skip
    assert memory.available_memory(root) == 50 * MIB


def test_memory_left_reads_cgroup_v1_in_a_container_that_sees_only_its_own_mount(tmp_path: Path) -> None:
    root = write(tmp_path, {
        "proc/self/cgroup": "4:memory:/docker/0123\n1:cpu,cpuacct:/docker/0123\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{64 * MIB}",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{80 * MIB}",
        "sys/fs/cgroup/memory/memory.stat": f"inactive_file 0\ntotal_inactive_file {30 * MIB}\n",
    })  # fmt: skip
    assert memory.available_memory(root) == 14 * MIB


def test_a_group_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    root = write(tmp_path, {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": f"{MIB}",
        "sys/fs/cgroup/memory.current": f"{2 * MIB}",
    })  # fmt: skip
    assert memory.available_memory(root) == 0


def test_memory_left_is_never_more_than_the_machine_has_available(tmp_path: Path) -> None:
    root = write(tmp_path, {
        "proc/meminfo": f"MemTotal: {9 << 20} kB\nMemAvailable:    {2 << 10} kB\n",
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": f"{100 * MIB}",
        "sys/fs/cgroup/memory.current": "0",
    })  # fmt: skip
    assert memory.available_memory(root) == 2 * MIB


def test_without_any_limit_the_machine_decides(tmp_path: Path) -> None:
    assert memory.available_memory(tmp_path) > 0
    given, most = device.kv_budget(torch.device("cpu"), 0.9)
    assert 0 < given < most
