"""Picks the runner for a configuration."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from penstock.core.errors import ConfigError

if TYPE_CHECKING:
    from penstock.engine.runners.base import ModelRunner, RunnerConfig


def make_runner(config: RunnerConfig) -> ModelRunner:
    """The runner that fits. Raises ConfigError if what it needs isn't installed."""
    if find_spec("torch") is None:
        raise ConfigError("This runner needs PyTorch. Install it with: pip install 'penstock[torch]'")
    from penstock.engine.runners.torch.runner import TorchRunner

    return TorchRunner(config)
