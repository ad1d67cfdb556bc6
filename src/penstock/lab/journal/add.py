"""Records into a day: read, checked, copied with the files that belong to them."""

from __future__ import annotations

import itertools
import shutil
from typing import TYPE_CHECKING

import msgspec

from penstock.core.errors import InvalidRequestError, RecordError
from penstock.core.record import Attachment
from penstock.lab.journal.entries import Metrics, entry_of, record_of
from penstock.lab.journal.evidence import records_in

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from penstock.core.record import Record
    from penstock.lab.journal.layout import Day

_FILES = "files"


def add(day: Day, paths: Iterable[Path], *, with_files: bool = True) -> list[str]:
    """Put Records into a day; the names they got there. All of them, or none if one can't be used.

    A Record that the day has already is left as it is. Raises RecordError if one isn't a Record, or its files have
    changed; InvalidRequestError if there are none.
    """
    given = [path for each in paths for path in (sorted(each.glob("*.json")) if each.is_dir() else [each])]
    records = [(exhibit.path, exhibit.record) for exhibit in records_in(given)]
    if not records:
        raise InvalidRequestError("There is no Record to add.", param="record")
    if with_files:
        for path, record in records:
            record.verify_files(path.parent)
    metrics = Metrics.load(day.metrics)
    entries = list(metrics.records)
    names = []
    for path, record in records:
        had = next((entry for entry in entries if entry.record and _same(record_of(entry), record)), None)
        if had is not None:
            names.append(had.name)
            continue
        name = _free(path.stem, {entry.name for entry in entries})
        files = _copied(path, record, day, name) if with_files else ()
        entries.append(entry_of(name, msgspec.structs.replace(record, files=files)))
        names.append(name)
    msgspec.structs.replace(metrics, records=tuple(entries)).save(day.metrics)
    return names


def _same(had: Record, record: Record) -> bool:
    """But for where its files lie."""
    return msgspec.structs.replace(had, files=()) == msgspec.structs.replace(record, files=())


def _free(stem: str, taken: set[str]) -> str:
    candidates = itertools.chain([stem], (f"{stem}-{i}" for i in itertools.count(2)))
    return next(name for name in candidates if name not in taken)


def _copied(path: Path, record: Record, day: Day, name: str) -> tuple[Attachment, ...]:
    moved = []
    for file in record.files:
        target = day.folder / _FILES / name / file.path.rpartition("/")[2]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path.parent / file.path, target)
        except OSError as error:
            raise RecordError(f"{target} can't be written: {error.strerror}.") from error
        moved.append(Attachment.of(target, day.folder))
    return tuple(moved)
