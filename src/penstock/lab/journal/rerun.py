"""A Record made again by the command it holds, and whether it came out the same."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from penstock.core.errors import ConfigError, InvalidRequestError, RecordError
from penstock.core.record import Record
from penstock.lab.journal.compare import compare
from penstock.lab.journal.evidence import Exhibit
from penstock.lab.journal.layout import json_below

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.lab.journal.compare import Change, Comparison

MARGIN = 0.10  # wider than a comparison's: another hour, and often another commit
Outcome = Literal["reproduced", "changed", "inconclusive"]

# A Record may come from anyone, so it is no way to run just anything.
_MODULES = ("benchmarks", "benchmarks.load", "benchmarks.stability")
_COMMANDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("penstock", "bench"): (sys.executable, "-m", "penstock.cli", "bench"),
    **{("python", "-m", module): (sys.executable, "-m", module) for module in _MODULES},
}


@dataclass(frozen=True, slots=True)
class Rerun:
    outcome: Outcome
    comparison: Comparison
    record: Record  # the new one
    exit_code: int  # of the command; 21 and 130 leave Records too


def command_line(record: Record) -> tuple[str, ...]:
    """What runs the Record again, without where results go.

    Raises InvalidRequestError if the Record has no command, or one that isn't a measurement of Penstock's.
    """
    for prefix, words in _COMMANDS.items():
        if record.command[: len(prefix)] == prefix:
            return (*words, *record.command[len(prefix) :])
    if record.command:
        raise InvalidRequestError(
            f"The Record was made by {shlex.join(record.command)!r}; only penstock bench and python -m benchmarks are"
            " run again.",
            param="record",
        )
    raise InvalidRequestError(
        "The Record doesn't tell the command that made it, so it can't be run again.", param="record"
    )


def rerun(exhibit: Exhibit, folder: Path, *, out: Path | None = None, metrics: Sequence[str] = ()) -> Rerun:
    """Run it in `folder`, its results in `out` (default: nowhere kept).

    Raises ConfigError if the command can't be run or leaves no Record of the kind.
    """
    words = command_line(exhibit.record)
    with tempfile.TemporaryDirectory() as temporary:
        place = out or Path(temporary)
        try:
            done = subprocess.run(
                (*words, "--out", str(place.resolve())), cwd=folder, stdout=sys.stderr.fileno(), check=False
            )
        except OSError as error:
            raise ConfigError(f"{words[0]} can't be run: {error.strerror}.") from error
        again = _newest(place, exhibit.record)
        if again is None:
            raise ConfigError(
                f"The command ended with {done.returncode} and left no Record of {exhibit.record.subject.name!r} under"
                f" {exhibit.record.workload.name!r}."
            )
        compared = compare([exhibit], [again], metrics)
        # Nothing is proven by a run that was cut or whose client was late.
        sound = not exhibit.record.flaws and not again.record.flaws
        return Rerun(_outcome(compared.changes) if sound else "inconclusive", compared, again.record, done.returncode)


def reproduced(change: Change) -> Outcome:
    """Whether one figure came out the same.

    Changed if the change is real and greater than the margin; reproduced if it is smaller, and its interval, where
    there is one, doesn't reach beyond twice the margin.
    """
    within = 1 / (1 + MARGIN) <= change.ratio <= 1 + MARGIN
    if change.low is None or change.high is None:
        return "reproduced" if within else "inconclusive"
    if not within:
        return "inconclusive" if change.low <= 1 <= change.high else "changed"
    wide = 1 + 2 * MARGIN
    return "reproduced" if 1 / wide <= change.low and change.high <= wide else "inconclusive"


def _outcome(changes: Sequence[Change]) -> Outcome:
    found = [reproduced(change) for change in changes]
    if "changed" in found:
        return "changed"
    return "inconclusive" if "inconclusive" in found else "reproduced"


def _newest(folder: Path, like: Record) -> Exhibit | None:
    found = []
    for path in json_below(folder):
        try:
            record = Record.load(path)
        except RecordError:
            continue  # attached to one
        if (record.subject.name, record.workload.name) == (like.subject.name, like.workload.name):
            # One command may measure several loads.
            asked, wanted = record.workload.parameters, like.workload.parameters
            same = [asked.get(name) == wanted.get(name) for name in ("concurrency", "rate")]
            found.append((sum(same), record.created, path, record))
    if not found:
        return None
    *_, path, record = max(found, key=lambda each: each[:2])
    return Exhibit(record, path, path.stem)
