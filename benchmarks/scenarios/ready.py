"""How long `penstock serve` takes to its first answer, and how much memory it holds beyond weights and KV."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks.scenarios.base import make_record, penstock
from benchmarks.workload import OUTPUT_TOKENS
from penstock.core.record import Metric, Record

if TYPE_CHECKING:
    from benchmarks.scenarios.base import Setting

NAME = "ready"
_LOAD = 32
_SMALL_KV = "128MiB"  # so little that the load writes all of it: memory never written is not resident


def measure(setting: Setting) -> list[Record]:
    """Start it at default settings with an empty cache directory, again with what that start left there, then with
    a small KV cache that 32 requests at once fill; several times."""
    first: list[float] = []
    ready: list[float] = []
    used: list[float] = []
    fresh: list[float] = []
    loaded: list[float] = []
    with penstock(setting):
        pass  # from here on there is byte code, as installers leave it
    for number in range(setting.repeats):
        with TemporaryDirectory(prefix="penstock-cache-") as directory:
            cache = Path(directory)
            with penstock(setting, cache=cache) as engine:
                first.append(engine.ready_seconds)
            with penstock(setting, cache=cache) as engine:
                ready.append(engine.ready_seconds)
                used.append(engine.child.cpu_seconds())
                fresh.append(engine.child.memory().pss)
            with penstock(setting, "--kv-memory", _SMALL_KV, cache=cache) as small:
                small.generate(setting.prompts.take(_LOAD, f"load {number}"), OUTPUT_TOKENS)
                loaded.append(small.child.memory().pss)
                kv, weights = small.gauge("penstock_kv_bytes"), small.gauge("penstock_weight_bytes")
    metrics = [
        Metric.from_samples("ready_first", "s", first),
        Metric.from_samples("ready", "s", ready),
        Metric.from_samples("cpu_until_ready", "s", used),
        Metric.from_samples("pss_when_ready", "bytes", fresh),
        Metric.from_samples("pss_after_load", "bytes", loaded),
        Metric.from_samples("weights", "bytes", [weights]),
        Metric.from_samples("kv", "bytes", [kv]),
        Metric.from_samples("pss_beyond_weights_and_kv", "bytes", [size - weights - kv for size in loaded]),
    ]
    parameters = {"starts": setting.repeats, "load": _LOAD, "kv_memory_under_load": _SMALL_KV}
    notes = (
        "ready_first is with an empty cache directory, ready with what that start left in it; the model's file itself "
        "is in the page cache, and modules are byte code. Both, cpu_until_ready (all processes, user and system) and "
        "pss_when_ready are at default settings, the rest with a KV cache that the load fills.",
    )
    return [make_record(setting, engine, NAME, parameters, metrics, notes)]
