"""Picks the runner for a configuration: on a CPU the native one if it has the dtype, on anything else torch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from penstock import _native as native
from penstock.core.errors import ConfigError
from penstock.core.torch_extra import require

if TYPE_CHECKING:
    from penstock.engine.runners.base import ModelRunner, RunnerConfig

# What a driver puts there. Asking torch instead would import it, which takes longer than all the rest of a start.
_GPU_FILES = (Path("/dev/nvidiactl"), Path("/dev/kfd"))


def make_runner(config: RunnerConfig) -> ModelRunner:
    """The runner that fits. Raises ConfigError if what was asked for isn't known, isn't there or isn't installed."""
    if config.runner not in {"auto", "native", "torch"}:
        raise ConfigError(f"Unknown runner '{config.runner}': choose auto, native or torch.", param="runner")
    if config.runner == "native":
        return _native(config)
    if config.runner == "torch" or config.device not in {"auto", "cpu"} or config.dtype == "float16":
        return _torch(config)
    if config.dtype == "bfloat16" and not native.has_bfloat16():
        return _torch(config)
    if config.device == "auto" and _may_have_accelerator(config) and find_spec("torch") is not None:
        from penstock.engine.runners.torch.device import choose_placement

        placement = choose_placement(config)
        return _torch(config) if placement.backend != "cpu" else _native(config, placement.note)
    return _native(config)


def _may_have_accelerator(config: RunnerConfig) -> bool:
    return config.allow_unverified or any(path.exists() for path in _GPU_FILES)


def _native(config: RunnerConfig, note: str = "") -> ModelRunner:
    from penstock.engine.runners.native import NativeRunner

    return NativeRunner(config, note)


def _torch(config: RunnerConfig) -> ModelRunner:
    require("Computing with PyTorch", "torch", "numpy", param="runner")
    from penstock.engine.runners.torch.runner import TorchRunner

    return TorchRunner(config)
