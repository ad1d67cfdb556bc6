"""From what was asked to a plan that can be run."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

from penstock.core.errors import ConfigError, InvalidRequestError
from penstock.lab.bench.compile_study.modes import EAGER, MODES, choose
from penstock.lab.bench.compile_study.study import Plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LEAST = {"context": 1, "steps": 1, "answer": 1, "rounds": 2, "passes": 1, "limit": 1, "threads": 1, "block_size": 1}
_MOST = 1 << 20  # tokens, sequences or seconds


def plan_of(model: str, find: Callable[[str], Path], **asked: Any) -> Plan:
    """A plan of the options that were given; the rest is as `penstock bench compile-study --help` says.

    Raises InvalidRequestError for an option that can't be, ConfigError for a device that isn't there, a missing
    compiler or a model that is shorter than the longest point, and what `find` does.
    """
    for name, value in asked.items():
        if name in _LEAST and not _LEAST[name] <= value <= _MOST:
            flag = "--" + name.replace("_", "-")
            raise InvalidRequestError(f"{flag} is from {_LEAST[name]} to {_MOST}; got {value}.", param=name)
    names = asked.pop("modes", None)
    modes = choose(list(MODES) if names is None else [name.strip() for name in names.split(",") if name.strip()])
    prefills, batches = (
        numbers(asked.pop("prefill", "128,512"), "prefill"),
        numbers(asked.pop("batches", "1,8"), "batches"),
    )
    if prefills[0] < 2:
        raise InvalidRequestError("A prompt of one token is a decode step; --prefill is of 2 or more.", param="prefill")
    from penstock.engine.runners.base import RunnerConfig
    from penstock.engine.runners.torch.device import choose_placement

    path = find(model)
    wanted = {name: asked.pop(name) for name in ("device", "dtype", "allow_unverified") if name in asked}
    placement = choose_placement(RunnerConfig(model_path=str(path), runner="torch", **wanted))
    if placement.backend == "cpu" and any(mode.name != EAGER for mode in modes):
        require_compiler()
    fields = {"context": 256, "steps": 32, "answer": 128, "rounds": 8, "passes": 2, "limit": 900.0, **asked}
    plan = Plan(
        model=model, model_path=path, modes=modes, backend=placement.backend,
        dtype=str(placement.dtype).removeprefix("torch."), prefills=prefills, batches=batches, **fields,
    )  # fmt: skip
    _check_length(plan)
    return plan


def numbers(text: str, param: str) -> tuple[int, ...]:
    """ "1,8,32" as numbers, each once, rising. Raises InvalidRequestError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and 0 < int(part[:8]) <= _MOST and len(part) < 9 for part in parts):
        raise InvalidRequestError(
            f"--{param} is whole numbers from 1 to {_MOST} with commas, as 1,8; got {text!r}.", param=param
        )
    return tuple(sorted({int(part) for part in parts}))


def require_compiler() -> None:
    """Raises ConfigError unless there is a C++ compiler, which torch.compile calls on a CPU."""
    named = os.environ.get("CXX")
    wanted = [named] if named else ["g++", "clang++"]
    if not any(shutil.which(name) for name in wanted):
        raise ConfigError(
            f"On a CPU torch.compile needs a C++ compiler, and there is no {' or '.join(wanted)}: install g++, or name "
            "another in CXX."
        )


def _check_length(plan: Plan) -> None:
    from penstock.models.load import load

    spec, weights = load(plan.model_path)
    weights.close()
    longest = max(point.length for point in plan.points)
    if longest > spec.context_length:
        raise ConfigError(
            f"The longest point has {longest} tokens, the context of {plan.model} {spec.context_length}: lower "
            "--prefill, --context or --steps."
        )
