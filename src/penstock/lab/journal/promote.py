"""What a day taught goes into topics, its Records into the folder of Records, its code into examples."""

from __future__ import annotations

import datetime
import itertools
import posixpath
import re
import shutil
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import msgspec

from penstock.core.errors import InvalidRequestError, RecordError
from penstock.core.record import Attachment
from penstock.lab.journal.begin import TEMPLATE_LESSON, TEMPLATE_TROUBLE, has_result
from penstock.lab.journal.entries import Entry, Metrics, record_of, write_whole
from penstock.lab.journal.index import sections_of
from penstock.lab.journal.layout import topic_slug

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.core.record import Record
    from penstock.lab.journal.layout import Day, Journal


@dataclass(frozen=True, slots=True)
class Promoted:
    """What was lifted: paths of Records and files, from the journal's parent on."""

    day: str
    topic: str
    records: tuple[str, ...]
    pages: tuple[str, ...]


def promote(journal: Journal, day: Day, topic: str = "") -> Promoted:
    """Lift a day. Done twice it changes nothing the second time; a lesson edited in its topic stays as edited.

    Raises InvalidRequestError if nothing is written of the day yet; RecordError if its Records can't be read, or
    something can't be written.
    """
    if not has_result(day):
        what = "Its result is still to be written." if day.log.is_file() else "It has no LOG.md."
        raise InvalidRequestError(f"{day.name} can't be promoted: {what}", param="day")
    metrics = Metrics.load(day.metrics)
    slug = topic_slug(topic or day.topic)
    folder = journal.root / "topics" / slug
    entries, records = [], []
    for entry in metrics.records:
        if entry.promoted is None:
            promoted, path = _lifted(journal, day, entry)
            entries.append(promoted)
            records.append(journal.shown(path))
        else:
            entries.append(entry)
    sections = sections_of(day)
    links = [entry.promoted.path for entry in entries if entry.promoted]
    pages = [
        _lesson(journal, day, folder / "overview.md", sections.get("what i learned", ""), TEMPLATE_LESSON, links),
        _lesson(journal, day, folder / "gotchas.md", sections.get("post-mortem", ""), TEMPLATE_TROUBLE, ()),
        *_examples(journal, day, folder / "examples"),
    ]
    # Last: a promotion that was cut short is done again, and finds what is there already.
    today = metrics.promoted or datetime.datetime.now().astimezone().date()
    msgspec.structs.replace(metrics, promoted=today, records=tuple(entries)).save(day.metrics)
    shutil.rmtree(day.folder / "files", ignore_errors=True)
    return Promoted(day.name, slug, tuple(records), tuple(page for page in pages if page))


def waiting(journal: Journal) -> list[Day]:
    """Days with a result that haven't been promoted, or have been given Records since.

    Raises RecordError if a day's Records can't be read.
    """
    found = []
    for day in journal.days:
        metrics = Metrics.load(day.metrics)
        if has_result(day) and (metrics.promoted is None or any(entry.promoted is None for entry in metrics.records)):
            found.append(day)
    return found


def _lifted(journal: Journal, day: Day, entry: Entry) -> tuple[Entry, Path]:
    """The entry as it is after promotion, and where its Record is now."""
    record = record_of(entry)
    path = _place(journal, day, entry.name, record)
    moved = []
    for file in record.files:
        target = path.with_suffix(".files") / file.path.rpartition("/")[2]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(day.folder / file.path, target)
        except OSError as error:
            raise RecordError(f"{target} can't be written: {error.strerror}.") from error
        moved.append(Attachment.of(target, path.parent))
    msgspec.structs.replace(record, files=tuple(moved)).save(path)
    return Entry(entry.name, promoted=Attachment.of(path, journal.benchmarks)), path


def _place(journal: Journal, day: Day, name: str, record: Record) -> Path:
    """A file that isn't there yet, or is there with this Record in it."""
    folder = journal.benchmarks / day.topic
    for suffix in itertools.chain([""], (f"-{i}" for i in itertools.count(2))):
        path = folder / f"{name}{suffix}.json"
        if not path.exists():
            return path
        try:
            there = type(record).load(path)
        except RecordError:
            continue
        if msgspec.structs.replace(there, files=()) == msgspec.structs.replace(record, files=()):
            return path
    raise AssertionError


def _lesson(journal: Journal, day: Day, page: Path, text: str, untouched: str, records: list[str] | tuple[()]) -> str:
    """Append a day's lesson to a topic's page, once; the page's path if something was written."""
    lesson = re.sub(r"<!--.*?-->", lambda m: m[0] if "not measured" in m[0] else "", text, flags=re.DOTALL).strip()
    if not lesson or lesson == untouched:
        return ""
    mark = f"<!-- from {day.name} -->"
    had = page.read_text(encoding="utf-8") if page.is_file() else f"# {page.parent.name}: {page.stem}\n"
    if mark in had:
        return ""
    up = "../../"
    links = [f"[{record}]({_relative(journal, page, record)})" for record in records]
    source = f"From [{day.name}]({up}days/{day.name}/LOG.md)" + (f"; measured in {', '.join(links)}." if links else ".")
    write_whole(page, f"{had.rstrip()}\n\n{mark}\n{source}\n\n{_relinked(lesson, day)}\n")
    return journal.shown(page)


def _relative(journal: Journal, page: Path, record: str) -> str:
    import os

    return os.path.relpath(journal.benchmarks / record, page.parent).replace(os.sep, "/")


def _relinked(text: str, day: Day) -> str:
    """Links that were relative to the day's folder, from a topic's: both are two folders below the journal's."""
    days = PurePosixPath("days", day.name)
    return re.sub(
        r"\]\((?![a-z]+:|/|#)([^)\s]+)", lambda m: f"](../../{posixpath.normpath((days / m[1]).as_posix())}", text
    )


def _examples(journal: Journal, day: Day, folder: Path) -> list[str]:
    """Copies of the day's code that aren't there yet."""
    done = []
    for source in sorted((day.folder / "code").rglob("*")):
        if not source.is_file() or source.name == ".gitkeep" or "__pycache__" in source.parts:
            continue
        target = folder / source.relative_to(day.folder / "code")
        if not target.exists():
            write_whole(target, source.read_bytes())
            target.chmod(source.stat().st_mode)
            done.append(journal.shown(target))
    return done
