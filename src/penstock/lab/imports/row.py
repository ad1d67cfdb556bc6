"""What a reader of a format hands over: measurements, and what of a file can't be one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datetime
    from collections.abc import Mapping

    from penstock.lab.imports.figures import Figures
    from penstock.lab.imports.physics import Breach


@dataclass(frozen=True, slots=True)
class Impossible:
    """Something that can't be true, and where it stands. It is in no record."""

    file: str
    place: str  # "line 3", "benchmark 2"
    breach: Breach

    def __str__(self) -> str:
        where = f"{self.file}, {self.place}" if self.place else self.file
        return f"{where}: {self.breach}"

    def as_dict(self) -> dict[str, Any]:
        factor = self.breach.factor
        return {
            "file": self.file, "place": self.place, "law": self.breach.law, "figures": list(self.breach.figures),
            "what": self.breach.what, "hint": self.breach.hint,
            "factor": factor if factor != float("inf") else None,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement as told."""

    file: str
    place: str  # "": all of the file
    tool: str
    version: str  # of the tool; "" unknown
    figures: Figures
    subject: str = ""  # what was measured, if told
    subject_version: str = ""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    workload: str = "imported"
    seed: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)  # of the load
    hardware: str = ""
    created: datetime.datetime | None = None
    notes: tuple[str, ...] = ()
    flaws: tuple[str, ...] = ()  # why the tool itself says that the run is no good
    cut: str = ""  # why it was ended early
    breaches: tuple[Breach, ...] = ()  # why nothing of it is to be kept
    impossible: tuple[Impossible, ...] = ()  # requests that were left out

    def labels(self) -> dict[str, str]:
        """What tells it from other rows, beside its figures."""
        own = {"subject": self.subject, "version": self.subject_version, "hardware": self.hardware}
        told = {**own, **self.configuration, **self.parameters}
        return {name: str(value) for name, value in told.items() if value not in ("", None, "endpoint")}

    def name(self) -> str:
        """For people."""
        where = f"{self.file}, {self.place}" if self.place else self.file
        return f"{self.subject} ({where})" if self.subject else where
