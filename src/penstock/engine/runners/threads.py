"""How many threads a runner computes with, and where they run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from penstock import _native
from penstock.core.errors import ConfigError
from penstock.core.limits import cgroup_limits

if TYPE_CHECKING:
    from penstock.engine.runners.base import RunnerConfig


def place_threads(config: RunnerConfig, root: Path = Path("/")) -> _native.Placement:
    """Decide it from the settings, this process's cores and the CPU quota of its cgroups.

    `rust/penstock-cpu/src/topology.rs` says how.

    Args:
        root: where `proc` and `sys` tell of the cgroups.

    Raises:
        ConfigError: no core is left for the runner, or threads are to be pinned that can't be.
    """
    quota, _ = cgroup_limits(root)
    try:
        return _native.Placement(config.threads, config.reserve_cores, config.pin_threads, quota)
    except _native.NativeConfigError as error:
        raise ConfigError(str(error)) from error
