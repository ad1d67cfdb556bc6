"""What Penstock's processes use of a core while nobody asks anything."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.scenarios.base import make_record, penstock
from penstock.core.record import Metric, Record

if TYPE_CHECKING:
    from benchmarks.scenarios.base import Setting

NAME = "idle"
_SETTLE_S = 3.0
_SPAN_S = 20.0


def measure(setting: Setting) -> list[Record]:
    """CPU time of the whole process tree over spans of 20 s, after it has answered something."""
    used: list[float] = []
    with penstock(setting) as engine:
        engine.generate(setting.prompts.take(4, "before"), 32)
        time.sleep(_SETTLE_S)
        for _ in range(setting.repeats):
            before, start = engine.child.cpu_seconds(), time.monotonic()
            time.sleep(_SPAN_S)
            used.append((engine.child.cpu_seconds() - before) / (time.monotonic() - start))
    metrics = [Metric.from_samples("idle_cpu", "cores", used)]
    notes = ("The kernel counts CPU time in ticks of 10 ms: one tick in a span is 0.0005 cores.",)
    return [make_record(setting, engine, NAME, {"span_seconds": _SPAN_S}, metrics, notes)]
