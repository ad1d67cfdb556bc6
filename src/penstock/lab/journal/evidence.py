"""All Records of a journal, and what is wrong with those that can't be used."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from penstock.core.errors import RecordError
from penstock.core.record import Attachment, Record
from penstock.lab.journal.entries import Metrics, record_of
from penstock.lab.journal.layout import json_below

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from penstock.lab.journal.entries import Entry
    from penstock.lab.journal.layout import Day, Journal


@dataclass(frozen=True, slots=True)
class Exhibit:
    """A Record and where it lies."""

    record: Record
    path: Path  # of the file; of a day's own Record, its metrics.json
    name: str  # of the file without its suffix, or of the day's entry
    day: Day | None = None

    def label(self, journal: Journal) -> str:
        return f"{journal.shown(self.path)}#{self.name}" if self.day else journal.shown(self.path)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that `check` names. A reminder fails nothing."""

    where: str  # "file" or "file:line"
    what: str
    kind: str  # "record", "figure", "layout", "stale", "reminder"

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def _of_it(error: RecordError, path: Path) -> str:
    """What is wrong with a file, for a list that names it by itself."""
    return error.message.replace(f"The record {path}", "It").replace(str(path), "It")


def records_below(folder: Path) -> list[Exhibit]:
    """The Records of a folder outside any journal. Raises RecordError if a file is neither one nor attached to one."""
    return records_in(json_below(folder))


def records_in(paths: Iterable[Path]) -> list[Exhibit]:
    """The Records among these files. Raises RecordError if one is neither a Record nor attached to one."""
    found, failed = _read_all(paths)
    for error in failed.values():
        raise error
    return found


def _read_all(paths: Iterable[Path]) -> tuple[list[Exhibit], dict[Path, RecordError]]:
    """Records, and the errors of what is neither one nor attached to one."""
    found: list[Exhibit] = []
    failed: dict[Path, RecordError] = {}
    for path in paths:
        try:
            found.append(Exhibit(Record.load(path), path, path.stem))
        except RecordError as error:
            failed[path.resolve()] = error
    for exhibit in found:
        for file in exhibit.record.files:
            failed.pop((exhibit.path.parent / file.path).resolve(), None)
    return found, failed


@dataclass
class Evidence:
    """What was read from a journal; `problems` says what could not be."""

    journal: Journal
    problems: list[Problem] = field(default_factory=list)

    @cached_property
    def kept(self) -> list[Exhibit]:
        """The Records in the folder of Records. Other JSON there must be attached to one of them."""
        paths = (path for path in json_below(self.journal.benchmarks) if not self._is_days(path))
        found, failed = _read_all(paths)
        self.problems += [
            Problem(self.journal.shown(path), _of_it(error, path), "record") for path, error in failed.items()
        ]
        return found

    @cached_property
    def of_days(self) -> dict[Day, list[Exhibit]]:
        """Each day's Records, promoted ones too."""
        return {day: self._of(day) for day in self.journal.days}

    @property
    def all(self) -> list[Exhibit]:
        """Each Record once."""
        return [*self.kept, *(one for day, found in self.of_days.items() for one in found if one.day == day)]

    def verify(self) -> None:
        """Add a problem for each attached file that is missing or isn't what it was."""
        for exhibit in self.all:
            try:
                exhibit.record.verify_files(exhibit.path.parent)
            except RecordError as error:
                self.problems.append(Problem(exhibit.label(self.journal), error.message, "record"))

    def _is_days(self, path: Path) -> bool:
        """Whether it is of a day or a topic, where the journal's folder is the folder of Records too."""
        return any(path.is_relative_to(self.journal.root / name) for name in ("days", "topics", "scripts", "site"))

    def _of(self, day: Day) -> list[Exhibit]:
        try:
            entries = Metrics.load(day.metrics).records
        except RecordError as error:
            self.problems.append(Problem(self.journal.shown(day.metrics), _of_it(error, day.metrics), "record"))
            return []
        found = []
        for entry in entries:
            try:
                found.append(self._read(day, entry))
            except RecordError as error:
                self.problems.append(
                    Problem(f"{self.journal.shown(day.metrics)}#{entry.name}", error.message, "record")
                )
        return found

    def _read(self, day: Day, entry: Entry) -> Exhibit:
        if entry.promoted is not None:
            path = self.journal.benchmarks / entry.promoted.path
            if Attachment.of(path, self.journal.benchmarks) != entry.promoted:
                raise RecordError(f"The promoted Record {entry.promoted.path} has changed since.")
            return Exhibit(Record.load(path), path, path.stem)
        if entry.record is None:
            raise RecordError("The entry has neither a Record nor the place of a promoted one.")
        return Exhibit(record_of(entry), day.metrics, entry.name, day)
