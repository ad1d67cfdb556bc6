"""Measurements of Penstock alone, one file each: `NAME` and `measure(setting) -> records`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.scenarios import (
    adapters,
    agreement,
    batch,
    batch_invariance,
    idle,
    installed,
    long_prompt,
    prefix_cache,
    ready,
    speculation,
    structured,
    workloads,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.scenarios.base import Setting
    from penstock.core.record import Record

SCENARIOS: dict[str, Callable[[Setting], list[Record]]] = {
    module.NAME: module.measure
    for module in (
        ready,
        installed,
        long_prompt,
        prefix_cache,
        idle,
        batch_invariance,
        structured,
        speculation,
        adapters,
        agreement,
        batch,
        workloads,
    )
}
