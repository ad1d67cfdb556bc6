"""A new day, and with the first one a journal."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path

from penstock.core.errors import ConfigError, NotFoundError
from penstock.lab.journal.entries import Metrics, write_whole
from penstock.lab.journal.layout import SETTINGS, Day, Journal, topic_slug

TEMPLATE_HYPOTHESIS = "What is believed, and why. If it is wrong, what else must be true?"
TEMPLATE_RESULT = "What came. Each figure here must be in a Record: penstock journal add RECORD."
TEMPLATE_LESSON = "- What the difference between prediction and result taught."
TEMPLATE_TROUBLE = "- What went wrong on the way, and what would have shown it sooner."
_TEMPLATE = """\
# Day {number:03}: {topic}

Date: {date}

## Hypothesis

{hypothesis}

## Method

What is changed and what is held still: workload, seeds, machine, commands.

## Prediction

What the figures will be, written down before they are taken.

## Result

{result}

## What I learned

{lesson}

## Post-mortem

{trouble}
"""
_SETTINGS = """\
# Settings of this journal; see penstock journal --help.
benchmarks = "benchmarks" # the folder of Records
# pages = ["../README.md"] # whose generated figures come from these Records

# [[plot]]
# name = "throughput"
# records = "serving-*.json"
# metric = "output_throughput.p50"
# x = "workload.concurrency"
# by = "subject.name"
"""


def begin(topic: str, given: Path | None = None, *, date: datetime.date | None = None) -> tuple[Journal, Day]:
    """Make the next day's folder, in a new journal if there is none. Raises ConfigError if it can't be written."""
    slug = topic_slug(topic)
    try:
        journal = _journal(given)
        day = _claim(journal, slug)
        (day.folder / "code").mkdir()
        (day.folder / "code" / ".gitkeep").touch()
    except OSError as error:
        raise ConfigError(f"The day can't be written: {error.strerror}: {error.filename}.", param="journal") from error
    title = " ".join(topic.split())
    text = _TEMPLATE.format(
        number=day.number,
        topic=title,
        date=date or datetime.datetime.now().astimezone().date(),
        hypothesis=TEMPLATE_HYPOTHESIS,
        result=TEMPLATE_RESULT,
        lesson=TEMPLATE_LESSON,
        trouble=TEMPLATE_TROUBLE,
    )
    write_whole(day.log, text)
    write_whole(day.folder / "TODO.md", f"# Left to do after day {day.number:03}\n")
    Metrics().save(day.metrics)
    return journal, day


def has_result(day: Day) -> bool:
    """Whether something was written where the template has its result."""
    try:
        return TEMPLATE_RESULT not in day.log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def renumber(journal: Journal, day: Day) -> Day:
    """Give a day the next free number: for two with the same one, which merged branches leave."""
    number = max(other.number for other in journal.days) + 1
    folder = day.folder.with_name(f"day-{number:03}-{day.topic}")
    try:
        day.folder.rename(folder)
    except OSError as error:
        raise ConfigError(f"{day.folder} can't be renamed: {error.strerror}.", param="day") from error
    renamed = Day(number, day.topic, folder)
    if renamed.log.is_file():
        heading, newline, rest = renamed.log.read_text().partition("\n")
        write_whole(renamed.log, heading.replace(f"Day {day.number:03}", f"Day {number:03}") + newline + rest)
    return renamed


def _journal(given: Path | None) -> Journal:
    if given is None:
        try:
            return Journal.find()
        except NotFoundError:
            given = _top() / "journal"
    if not (given / SETTINGS).exists():
        for name in ("days", "topics", "benchmarks", "scripts"):
            (given / name).mkdir(parents=True, exist_ok=True)
        write_whole(given / SETTINGS, _SETTINGS)
    return Journal.open(given)


def _claim(journal: Journal, slug: str) -> Day:
    """The folder of the next number; another process that begins a day at the same moment gets the one after."""
    number = max((day.number for day in journal.days), default=0) + 1
    while True:
        folder = journal.root / "days" / f"day-{number:03}-{slug}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
            continue
        if any(day.number == number and day.folder != folder for day in journal.days):
            folder.rmdir()
            number += 1
            continue
        return Day(number, slug, folder)


def _top() -> Path:
    """Of the checkout that the working directory is in, or the working directory itself."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return Path.cwd()
    return Path(done.stdout.strip())
