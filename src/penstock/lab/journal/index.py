"""JOURNAL_INDEX.md: every day, topic and Record on one page, made of them and of nothing else."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from penstock.core.errors import RecordError
from penstock.lab.journal.begin import TEMPLATE_HYPOTHESIS, TEMPLATE_LESSON
from penstock.lab.journal.entries import Metrics

if TYPE_CHECKING:
    from penstock.lab.journal.evidence import Evidence
    from penstock.lab.journal.layout import Day, Journal

_TEMPLATE = (TEMPLATE_HYPOTHESIS, TEMPLATE_LESSON)
_HEAD = "<!-- Made by penstock journal index; what is written here by hand is lost. -->\n\n# Journal\n"


def index(evidence: Evidence) -> str:
    """The page's text. The same journal gives the same page on every day and every machine."""
    return "\n".join([_HEAD, *days_and_topics(evidence.journal), *_records(evidence)]).rstrip() + "\n"


def days_and_topics(journal: Journal) -> list[str]:
    """Lines of Markdown, whose links are relative to the journal's folder."""
    parts = []
    if days := journal.days:
        parts += [
            "## Days\n",
            "| day | date | what was learned | Records | promoted |",
            "| --- | --- | --- | ---: | --- |",
        ]
        for day in days:
            sections = sections_of(day)
            told = (sections.get(name, "") for name in ("what i learned", "hypothesis"))
            learned = next((first_sentence(text) for text in told if text and text not in _TEMPLATE), "")
            records, promoted = _state(day)
            name = f"[{day.number:03} {day.topic}](days/{day.name}/LOG.md)"
            parts.append(f"| {name} | {date_of(day)} | {_cell(learned)} | {records} | {promoted} |")
        parts.append("")
    if journal.topics:
        parts.append("## Topics\n")
        for topic in journal.topics:
            files = sorted(path.name for path in topic.glob("*.md"))
            links = ", ".join(f"[{name.removesuffix('.md')}](topics/{topic.name}/{name})" for name in files)
            parts.append(f"- {topic.name}: {links or 'nothing yet'}")
        parts.append("")
    return parts


def sections_of(day: Day) -> dict[str, str]:
    """Heading in lower case -> the text below it; empty if there is no log that can be read."""
    try:
        text = day.log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pieces = re.split(r"^##\s+(.+?)\s*$", text, flags=re.MULTILINE)
    return {heading.lower(): body.strip() for heading, body in zip(pieces[1::2], pieces[2::2], strict=True)}


def date_of(day: Day) -> str:
    try:
        match = re.search(
            r"^Date:\s*(\d{4}-\d\d-\d\d)", day.log.read_text(encoding="utf-8", errors="replace"), re.MULTILINE
        )
    except OSError:
        return ""
    return match[1] if match else ""


def first_sentence(text: str) -> str:
    """Without marks of lists and comments."""
    bare = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    line = next((line.strip().lstrip("-*> ").strip() for line in bare.splitlines() if line.strip()), "")
    sentence = re.split(r"(?<=[.!?])\s", line, maxsplit=1)[0]
    return sentence if len(sentence) <= 160 else sentence[:157].rstrip() + "..."


def _state(day: Day) -> tuple[str, str]:
    try:
        metrics = Metrics.load(day.metrics)
    except RecordError:
        return "?", "?"  # `check` says what is wrong
    return str(len(metrics.records)), str(metrics.promoted or "")


def _records(evidence: Evidence) -> list[str]:
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    journal = evidence.journal
    for exhibit in evidence.kept:
        path = _relative(journal, exhibit.path.parent)
        key = (path, exhibit.record.workload.name, exhibit.record.subject.name)
        groups[key].append(f"{exhibit.record.created:%Y-%m-%d}")
    if not groups:
        return []
    lines = ["## Records\n", "| folder | workload | subject | Records | taken |", "| --- | --- | --- | ---: | --- |"]
    for (path, workload, subject), dates in sorted(groups.items()):
        first, last = min(dates), max(dates)
        taken = first if first == last else f"{first} to {last}"
        lines.append(f"| [{path}]({path}) | {_cell(workload)} | {_cell(subject)} | {len(dates)} | {taken} |")
    return [*lines, ""]


def _relative(journal: Journal, path: object) -> str:
    import os

    return os.path.relpath(str(path), journal.root).replace(os.sep, "/")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
