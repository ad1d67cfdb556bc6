"""Records and journals to test with."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from penstock.core.machine import Machine
from penstock.core.record import GitState, Metric, Record, Subject, Workload
from penstock.lab.journal.layout import Journal

if TYPE_CHECKING:
    from pathlib import Path

MACHINE = Machine(
    cpu_model="Example CPU",
    architecture="x86_64",
    logical_cpus=2,
    usable_cpus=2,
    cpu_flags=("avx2",),
    last_level_cache_bytes=1 << 20,
    memory_bytes=1 << 34,
    cgroup_cpus=None,
    cgroup_memory_bytes=None,
    os="Example OS 1",
    kernel="Linux 6.1",
    python="CPython 3.11.7",
)


def a_record(**changes: Any) -> Record:
    """Of 3 repeats: ttft about 12.3 ms, throughput about 100 tokens/s."""
    fields: dict[str, Any] = {
        "subject": Subject("penstock", "0.1.0", {"dtype": "int8"}),
        "workload": Workload("chat", 7, {"concurrency": 8, "input_tokens": 128, "output_tokens": 64, "repeats": 3}),
        "machine": MACHINE,
        "git": GitState("a" * 40, dirty=False),
        "metrics": (
            Metric.from_samples("ttft", "s", [0.0121, 0.01234, 0.0129]),
            Metric.from_samples("output_throughput", "tokens/s", [99.5, 100.2, 101.1]),
            Metric.from_samples("ratio_to_other", "1", [0.87, 0.88, 0.89]),
        ),
        "created": datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC),
    }
    return Record(**(fields | changes))


def throughput(*values: float, **changes: Any) -> Record:
    return a_record(metrics=(Metric.from_samples("output_throughput", "tokens/s", values),), **changes)


def a_journal(root: Path, settings: str = "") -> Journal:
    """Empty but for its folders and settings."""
    for name in ("days", "topics", "benchmarks"):
        (root / name).mkdir(parents=True)
    (root / "journal.toml").write_text(settings)
    return Journal.open(root)
