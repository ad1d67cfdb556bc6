"""How every record of a benchmark is written: with the command that `penstock journal rerun` runs again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

from penstock.core.provenance import command_of, package_versions

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.core.record import Record


def keep(record: Record, path: Path, module: str = "benchmarks") -> None:
    """`module` is what was run. Raises RecordError if it can't be written."""
    command = ("python", "-m", module, *command_of(sys.argv[1:]))
    msgspec.structs.replace(record, command=command, packages=package_versions() | record.packages).save(path)
