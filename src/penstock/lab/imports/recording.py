"""A row as a record."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from penstock.core.machine import Gpu, Machine, fingerprint
from penstock.core.record import Flaw, Record, Subject, Workload
from penstock.lab.imports import table
from penstock.lab.imports.figures import metrics_of
from penstock.lab.imports.hardware import chip_of

if TYPE_CHECKING:
    from penstock.lab.imports.row import Row


_TELLABLE = 2.0**63


def record_of(
    row: Row,
    sha256: str,
    *,
    subject: str | None = None,
    version: str | None = None,
    hardware: str | None = None,
    devices: int = 1,
    here: bool = False,
) -> Record:
    """What the row tells, and no more: what isn't known of the machine is empty.

    Args:
        sha256: of the file.
        subject: what was measured, where the file doesn't say or says it wrong.
        hardware: the accelerator it was measured on.
        here: it was measured on this machine.
    """
    figures = row.figures
    source = {"tool": row.tool, "version": row.version or None, "file": row.file, "sha256": sha256,
              "place": row.place or None}  # fmt: skip
    known = {"at_most": figures.at_most, "job": figures.job or None, "tail": figures.tail or None,
             "tokens_per_step": figures.tokens_per_step if figures.tokens_per_step != 1 else None}  # fmt: skip
    parameters = {
        **{name: value for name, value in {**row.parameters, **known}.items() if _tellable(value)},
        "imported": source,
    }
    by = "" if row.tool == table.TOOL else f", a result of {row.tool} {row.version}".rstrip()
    notes = [f"Imported from {row.file}{f', {row.place}' if row.place else ''}{by}.", *row.notes]
    if row.impossible:
        notes.append(
            f"{len(row.impossible)} of its requests can't be true: left out, as are the rates that count them."
        )
    flaws = [Flaw("invalid", reason) for reason in row.flaws] + ([Flaw("cut", row.cut)] if row.cut else [])
    return Record(
        subject=Subject(
            subject or row.subject or "endpoint", version or row.subject_version or "unknown",
            {key: value for key, value in row.configuration.items() if _tellable(value)},
        ),
        workload=Workload(row.workload, row.seed or 0, parameters), git=None, metrics=metrics_of(figures),
        machine=fingerprint() if here else _machine(hardware or row.hardware, devices),
        notes=tuple(notes), flaws=tuple(flaws),
        created=row.created or datetime.datetime.now(datetime.UTC),
    )  # fmt: skip


def _machine(hardware: str, devices: int) -> Machine:
    chip = chip_of(hardware) if hardware else None
    memory = 0 if chip is None else int(chip.memory_bytes)
    return Machine(
        cpu_model="", architecture="", logical_cpus=0, usable_cpus=0, cpu_flags=(), last_level_cache_bytes=0,
        memory_bytes=0, cgroup_cpus=None, cgroup_memory_bytes=None, os="", kernel="", python="",
        gpus=(Gpu(hardware, memory, ""),) * devices if hardware else (),
    )  # fmt: skip


def _tellable(value: Any) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return abs(value) < _TELLABLE  # NaN isn't, either; JSON of more digits isn't everyone's to read
    return isinstance(value, str | bool)
