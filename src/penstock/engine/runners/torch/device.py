"""Which device and dtype a model runs on. Both follow from the machine and the configuration, never from a timing."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from penstock.core.errors import ConfigError
from penstock.engine.runners.memory import available_memory

if TYPE_CHECKING:
    from penstock.engine.runners.base import RunnerConfig

# Backends whose code has run on their hardware. Adding one here is the last step of verifying it.
VERIFIED = frozenset({"cpu"})

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the model runs. `backend` tells ROCm from CUDA, which torch calls by one device name."""

    device: torch.device
    dtype: torch.dtype
    backend: str  # "cpu", "cuda", "rocm", "mps"
    note: str = ""  # what a person should know about the choice

    @property
    def verified(self) -> bool:
        return self.backend in VERIFIED


def choose_placement(config: RunnerConfig) -> Placement:
    """Resolve `device` and `dtype`. Raises ConfigError for what isn't known, isn't there or isn't verified."""
    backend, note = _choose_backend(config.device, allow_unverified=config.allow_unverified)
    device = torch.device("cuda" if backend == "rocm" else backend)
    return Placement(device, _choose_dtype(config.dtype, backend), backend, note)


def _choose_backend(wanted: str, *, allow_unverified: bool) -> tuple[str, str]:
    present = present_accelerators()
    if wanted == "auto":
        for backend in present:
            if backend in VERIFIED or allow_unverified:
                return backend, ""
        skipped = f"{present[0]} is unverified and unused; --allow-unverified turns it on" if present else ""
        return "cpu", skipped
    if wanted == "cpu":
        return "cpu", ""
    if wanted == "cuda" and "rocm" in present:
        wanted = "rocm"
    if wanted not in {"cuda", "rocm", "mps"}:
        raise ConfigError(f"Unknown device '{wanted}': choose auto, cpu, cuda or mps.", param="device")
    if wanted not in present:
        raise ConfigError(f"Device '{wanted}' was asked for, but torch finds none on this machine.", param="device")
    if wanted not in VERIFIED and not allow_unverified:
        raise ConfigError(
            f"The {wanted} path was never run on its hardware. Add --allow-unverified to use it all the same, "
            "or choose --device cpu.",
            param="device",
        )
    return wanted, ""


def present_accelerators() -> tuple[str, ...]:
    """The accelerators torch can use here, best first."""
    if torch.cuda.is_available():
        return ("rocm" if torch.version.hip else "cuda",)
    if torch.backends.mps.is_available():
        return ("mps",)
    return ()


def _choose_dtype(wanted: str, backend: str) -> torch.dtype:
    if wanted == "auto":
        if backend == "cpu":
            return torch.bfloat16 if cpu_has_bf16() else torch.float32
        return torch.float16 if backend == "mps" else torch.bfloat16
    if wanted not in DTYPES:
        raise ConfigError(f"Unknown dtype '{wanted}': choose auto, {', '.join(DTYPES)}.", param="dtype")
    if wanted == "float16" and backend == "cpu":
        raise ConfigError("float16 is slow and overflows on CPUs: choose bfloat16 or float32.", param="dtype")
    return DTYPES[wanted]


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """True where the CPU multiplies bfloat16 natively: AVX512-BF16 or AMX on x86, the bf16 extension on Arm."""
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip().lower() in {"flags", "features"}:
                return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(value.split())
        return False
    if platform.machine().lower() in {"x86_64", "amd64"}:
        return bool(torch.cpu._is_avx512_bf16_supported())
    return False


def kv_budget(device: torch.device, gpu_memory_utilization: float) -> tuple[int, int]:
    """Bytes the KV cache takes unless told otherwise, once the weights are loaded, and the most it can take.

    On a CPU a quarter of what the machine and our cgroups leave; on a GPU what remains of its utilized share.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return int(max(0.0, free - (1 - gpu_memory_utilization) * total)), free
    if device.type == "mps":
        most, taken = torch.mps.recommended_max_memory(), torch.mps.driver_allocated_memory()
        return max(0, int(most * gpu_memory_utilization) - taken), max(0, most - taken)
    free = available_memory()
    return free // 4, free
