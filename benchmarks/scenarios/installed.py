"""How much disk Penstock takes with all that serving on a CPU needs, Python itself not counted."""

from __future__ import annotations

from importlib.metadata import distribution, version
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

import penstock
from penstock.core.record import Metric, Record, Subject, Workload, git_state

if TYPE_CHECKING:
    from benchmarks.scenarios.base import Setting

NAME = "installed"


def measure(setting: Setting) -> list[Record]:
    """The files of the package and of what it requires without extras, byte code not counted."""
    own = [file for file in Path(penstock.__file__).parent.rglob("*") if file.is_file()]
    sizes = {"penstock": _bytes(own)}
    for name in required("penstock") - {"penstock"}:
        found = distribution(name)
        sizes[name] = _bytes([Path(str(found.locate_file(file))) for file in found.files or ()])
    metrics = [
        Metric.from_samples("installed", "bytes", [sum(sizes.values())]),
        *(Metric.from_samples(f"installed_{name}", "bytes", [size]) for name, size in _largest(sizes)),
    ]
    for metric in metrics:
        print(f"  {metric.name}: {metric.p50 / 1e6:.1f} MB", flush=True)
    subject = Subject("penstock", version("penstock"), {"packages": len(sizes)})
    return [Record(
        subject=subject, workload=Workload(NAME, setting.prompts.seed, {}), machine=setting.machine, git=git_state(),
        metrics=tuple(metrics), notes=("The whole, and its five largest parts; a file's size, not its blocks.",),
    )]  # fmt: skip


def required(name: str) -> set[str]:
    """`name` and all that it needs here, by name."""
    found: set[str] = set()
    open_names = [name]
    while open_names:
        current = open_names.pop()
        if current in found:
            continue
        found.add(current)
        for line in distribution(current).requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                open_names.append(requirement.name.lower().replace("_", "-"))
    return found


def _bytes(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.suffix != ".pyc" and file.is_file())


def _largest(sizes: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(sizes.items(), key=lambda item: -item[1])[:5]
