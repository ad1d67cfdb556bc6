"""Whether a journal contradicts itself: schemas, figures, generated parts, numbers of days, lessons left lying."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from penstock.core.errors import PenstockError, RecordError
from penstock.core.record import Record
from penstock.lab.imports.figures import figures_of
from penstock.lab.imports.physics import breaches
from penstock.lab.journal.begin import has_result
from penstock.lab.journal.compared import KEY, changed_since, checksum
from penstock.lab.journal.entries import Metrics
from penstock.lab.journal.evidence import Evidence, Exhibit, Problem
from penstock.lab.journal.figures import figures_in, without_code
from penstock.lab.journal.index import index
from penstock.lab.journal.layout import INDEX
from penstock.lab.journal.plots import drawn, plot_path
from penstock.lab.journal.regions import renewed
from penstock.lab.journal.truth import Truth, describe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from penstock.lab.journal.layout import Day, Journal

WEEK = 7  # days of the journal without lessons lifted, before a reminder
_LINK = re.compile(r"\]\((?![a-zA-Z][a-zA-Z0-9+.-]*:|/|#)([^)\s#]+)(?:#([^)\s]*))?[^)]*\)")  # within the checkout


def check(journal: Journal) -> list[Problem]:
    """All that is wrong, in the order of files and lines. Reminders are among it; they fail nothing."""
    evidence = Evidence(journal)
    everything = evidence.all
    evidence.verify()
    found = [*evidence.problems, *_impossible(everything, journal), *_numbers(journal), *_missing(journal)]
    everywhere = Truth([each for each in everything if not each.record.flaws], journal)
    units = {metric.unit for each in everything for metric in each.record.metrics} - {"1"}
    own = {day.log.resolve(): day for day in journal.days}
    for page in journal.pages():
        found += _page(page, own.get(page), evidence, everywhere, units)
    found += _stale(evidence)
    found += _reminders(journal)
    return sorted(dict.fromkeys(found), key=_by_place)


def _by_place(problem: Problem) -> tuple[bool, str, int]:
    place, _, line = problem.where.rpartition(":")
    numbered = line.isdecimal()
    return problem.kind == "reminder", place if numbered else problem.where, int(line) if numbered else 0


def _impossible(everything: Iterable[Exhibit], journal: Journal) -> Iterator[Problem]:
    """Records whose figures break a law; those with flaws prove nothing anyway."""
    for each in everything:
        if not each.record.flaws:
            for breach in breaches(figures_of(each.record)):
                yield Problem(each.label(journal), f"It can't be true: {breach}", "record")


def _page(page: Path, day: Day | None, evidence: Evidence, everywhere: Truth, units: set[str]) -> Iterator[Problem]:
    journal = evidence.journal
    shown = journal.shown(page)
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        yield Problem(shown, f"It can't be read: {error}.", "layout")
        return
    if conflict := re.search(r"^<{7} ", text, re.MULTILINE):
        yield Problem(_at(shown, text, conflict.start()), "A merge conflict is left in it.", "layout")
        return
    if not page.is_relative_to(journal.root):
        return  # of pages elsewhere only the generated parts are the journal's
    allowed, problems = _sources(page, text, day, evidence)
    yield from problems
    truth = Truth([each for each in allowed if not each.record.flaws], journal) if allowed or day else everywhere
    flawed = Truth([each for each in allowed if each.record.flaws], journal)
    for figure in figures_in(text, units):
        if truth.find(figure) is not None:
            continue
        where = f"{shown}:{figure.line}"
        if (unsound := flawed.find(figure)) is not None:
            advice = f"The {unsound.what} in {unsound.where} is, but that run was cut or is invalid."
        elif (elsewhere := everywhere.find(figure)) is not None:
            advice = f"The {elsewhere.what} in {elsewhere.where} is: link it here, or add it to the day."
        elif (nearest := truth.nearest(figure)) is not None:
            advice = f"The nearest is {describe(nearest, figure)}."
        else:
            advice = "No Record has anything of the kind."
        yield Problem(where, f"{figure.text} is in no Record of this page. {advice}", "figure")


def _sources(page: Path, text: str, day: Day | None, evidence: Evidence) -> tuple[list[Exhibit], list[Problem]]:
    """The Records a page may quote: a day's own, and those it links. A topic that links none may quote all."""
    found = list(evidence.of_days.get(day, ())) if day else []
    problems = []
    plain = without_code(text)
    for match in _LINK.finditer(plain):
        path, name = (page.parent / match[1]).resolve(), match[2]
        where = _at(evidence.journal.shown(page), plain, match.start())
        if not path.exists():
            problems.append(Problem(where, f"There is no {match[1]} that it links.", "layout"))
        elif path.suffix == ".json":
            linked = [each for each in evidence.all if each.path.resolve() == path and (not name or each.name == name)]
            if not linked and not path.is_relative_to(evidence.journal.root):
                try:
                    linked = [Exhibit(Record.load(path), path, path.stem)]
                except PenstockError as error:
                    problems.append(Problem(where, error.message, "record"))
            found += linked
    return found, problems


def _numbers(journal: Journal) -> Iterator[Problem]:
    """Days that share a number: two branches each began one, and git merged both."""
    first: dict[int, Day] = {}
    for day in journal.days:
        other = first.setdefault(day.number, day)
        if other != day:
            yield Problem(
                journal.shown(day.folder),
                f"It has the same number as {other.name}. Give it the next one: penstock journal renumber {day.name}",
                "layout",
            )


def _missing(journal: Journal) -> Iterator[Problem]:
    for folder in sorted((journal.root / "days").glob("*")):
        if folder.is_dir() and not any(day.folder == folder for day in journal.days):
            what = "A day's folder is named day-NNN-topic, in lower case, with hyphens."
            yield Problem(journal.shown(folder), what, "layout")
    for day in journal.days:
        if not day.log.is_file():
            yield Problem(journal.shown(day.folder), "It has no LOG.md.", "layout")


def _stale(evidence: Evidence) -> Iterator[Problem]:
    """What is made of Records and isn't what they make now. What was never made isn't missed."""
    journal = evidence.journal
    path = journal.root / INDEX
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace") != index(evidence):
        yield Problem(journal.shown(path), "It is out of date: penstock journal index", "stale")
    for page in journal.pages():
        text = page.read_text(encoding="utf-8", errors="replace")
        try:
            if renewed(text, evidence, journal.shown(page)) != text:
                what = "Its generated figures are out of date: penstock journal figures"
                yield Problem(journal.shown(page), what, "stale")
        except PenstockError as error:
            where, _, what = error.message.partition(": ")
            yield Problem(where, what, "stale")
    yield from _compared(evidence)
    for plot in journal.settings.plot:
        path = plot_path(journal, plot)
        try:
            if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != drawn(evidence, plot):
                yield Problem(journal.shown(path), "It is out of date: penstock journal plot", "stale")
        except PenstockError as error:
            yield Problem(journal.shown(journal.root / "journal.toml"), error.message, "stale")


def _compared(evidence: Evidence) -> Iterator[Problem]:
    """Comparisons that were kept, of Records that have been taken again since."""
    journal = evidence.journal
    kept = [each for each in evidence.all if KEY in each.record.workload.parameters]
    there = {each.label(journal): checksum(each.record) for each in evidence.all} if kept else {}
    for exhibit in kept:
        try:
            for name in changed_since(exhibit.record, there):
                what = f"{name}, which it compares, is another Record now: penstock journal compare --add"
                yield Problem(exhibit.label(journal), what, "stale")
        except RecordError as error:
            yield Problem(exhibit.label(journal), error.message, "record")


def _reminders(journal: Journal) -> Iterator[Problem]:
    waiting: list[Day] = []
    for day in journal.days:
        try:
            if Metrics.load(day.metrics).promoted is None:
                waiting.append(day)
            else:
                waiting.clear()
        except PenstockError:
            continue  # named as a record's problem
    if len(waiting) >= WEEK:
        yield Problem(
            journal.shown(journal.root / "days"),
            f"{len(waiting)} days since lessons were last lifted: penstock journal promote {waiting[0].name}",
            "reminder",
        )
    for day in journal.days[:-1]:  # the newest is at work
        if day.log.is_file() and not has_result(day):
            yield Problem(journal.shown(day.log), "Its result is still to be written.", "reminder")


def _at(shown: str, text: str, position: int) -> str:
    return f"{shown}:{text.count(chr(10), 0, position) + 1}"
