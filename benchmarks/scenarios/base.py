"""What the scenarios of Penstock alone share."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.peers.penstock import Penstock, PenstockEngine
from penstock.core.record import Record, Subject, Workload, git_state

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from benchmarks.peers import Place
    from benchmarks.workload import ModelFiles, Prompts
    from penstock.core.machine import Machine
    from penstock.core.record import Metric


@dataclass(frozen=True, slots=True)
class Setting:
    """What every scenario is given."""

    place: Place
    model: ModelFiles
    prompts: Prompts
    machine: Machine
    repeats: int


@contextmanager
def penstock(setting: Setting, *options: str, cache: Path | None = None) -> Iterator[PenstockEngine]:
    """Penstock, up and answering, at its defaults but for `options`; with `cache` in place of the user's."""
    with Penstock(options, cache).running(setting.place, setting.model, setting.prompts.take(1, "probe")[0]) as engine:
        assert isinstance(engine, PenstockEngine)
        yield engine


def make_record(
    setting: Setting,
    engine: PenstockEngine,
    name: str,
    parameters: Mapping[str, object],
    metrics: Sequence[Metric],
    notes: tuple[str, ...] = (),
) -> Record:
    """The record of a scenario; its metrics are printed too."""
    for metric in metrics:
        print(
            f"  {metric.name}: median {metric.p50:.6g} {metric.unit}, {metric.min:.6g} to {metric.max:.6g}", flush=True
        )
    return Record(
        subject=Subject(engine.name, engine.version, engine.configuration),
        workload=Workload(name, setting.prompts.seed, {"model": setting.model.gguf.name, **parameters}),
        machine=setting.machine,
        git=git_state(),
        metrics=tuple(metrics),
        notes=notes,
    )
