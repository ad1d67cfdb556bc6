"""What a record says of the machine and the code, for every kind of page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from penstock.lab.pages.document import Folded, Pairs, Section
from penstock.lab.pages.units import figure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.core.record import Record


def machine_section(record: Record) -> Section:
    """Machine, commit, configuration and workload."""
    return Section(
        "Machine and code",
        (
            Pairs(tuple(_machine(record))),
            Folded("Configuration", (Pairs(tuple(flat(record.subject.configuration))),)),
            Folded(
                "Workload",
                (
                    Pairs(
                        (
                            ("name", record.workload.name),
                            ("seed", str(record.workload.seed)),
                            *flat(record.workload.parameters),
                        )
                    ),
                ),
            ),
        ),
    )


def _machine(record: Record) -> list[tuple[str, str]]:
    machine = record.machine
    pairs = [
        ("processor", f"{machine.cpu_model} ({machine.architecture})"),
        ("CPUs", _cpus(record)),
        ("instruction sets", ", ".join(machine.cpu_flags)),
        ("last-level cache", _size(machine.last_level_cache_bytes)),
        ("memory", _size(machine.memory_bytes)),
        ("memory limit", _size(machine.cgroup_memory_bytes or 0)),
        ("read bandwidth", f"{figure(machine.read_bandwidth, 'bytes')}/s" if machine.read_bandwidth else ""),
        ("GPUs", ", ".join(f"{gpu.name} ({_size(gpu.memory_bytes)}, driver {gpu.driver})" for gpu in machine.gpus)),
        ("system", f"{machine.os}, {machine.kernel}"),
        ("Python", machine.python),
        ("subject", f"{record.subject.name} {record.subject.version}"),
        ("commit", _commit(record)),
        ("measured", record.created.strftime("%Y-%m-%d %H:%M:%S %Z")),
    ]
    return [(name, value) for name, value in pairs if value]


def _cpus(record: Record) -> str:
    machine = record.machine
    quota = "" if machine.cgroup_cpus is None else f", quota {machine.cgroup_cpus:g}"
    return f"{machine.usable_cpus} of {machine.logical_cpus}{quota}"


def _commit(record: Record) -> str:
    if record.git is None:
        return ""
    return record.git.commit[:12] + (", with changes" if record.git.dirty else "")


def _size(nbytes: int) -> str:
    return figure(nbytes, "bytes") if nbytes else ""


def flat(value: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """`{"a": {"b": 1}}` as `("a.b", "1")`."""
    pairs: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{before}{key}"
        if isinstance(item, dict) and item:
            pairs += flat(item, f"{name}.")
        else:
            pairs.append((name, item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)))
    return pairs
