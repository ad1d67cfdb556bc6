"""The journal as static pages: front page, days, topics, Records, trends, and a search that needs no server."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError, RecordError
from penstock.lab.journal.compare import HEADLINES
from penstock.lab.journal.entries import write_whole
from penstock.lab.journal.evidence import Evidence
from penstock.lab.journal.fields import machine_name
from penstock.lab.journal.history import history
from penstock.lab.journal.index import days_and_topics
from penstock.lab.journal.matrix import matrix
from penstock.lab.pages.document import Callout, Cell, Code, Document, Grid, Link, Paragraph, Prose, Section, Table
from penstock.lab.pages.estimates import Estimate
from penstock.lab.pages.html import Markup, data_block, element
from penstock.lab.pages.machine_section import machine_section
from penstock.lab.pages.plots import Axis, Mark, Plot, Series
from penstock.lab.pages.render_html import render
from penstock.lab.pages.units import figure

if TYPE_CHECKING:
    from penstock.lab.journal.evidence import Exhibit
    from penstock.lab.journal.history import Trend
    from penstock.lab.journal.layout import Journal

_MARK = ".penstock-site"  # of a folder that may be written over
_SEARCH = "search.html"
_LONGEST = 20_000  # characters of a page in the search index


@dataclass(frozen=True, slots=True)
class _Page:
    path: str  # from the site's folder, with "/"
    document: Document
    text: str  # what is searched
    source: Path | None = None  # the Markdown it is made of


@dataclass(slots=True)
class _Site:
    journal: Journal
    pages: list[_Page] = field(default_factory=list)

    def add(self, path: str, document: Document, text: str, source: Path | None = None) -> None:
        self.pages.append(_Page(path, document, text[:_LONGEST], source))


def write(journal: Journal, out: Path) -> int:
    """Write all pages into `out`; how many. A site written there before is replaced.

    Raises InvalidRequestError if `out` holds anything else.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / _MARK).exists())):
        raise InvalidRequestError(f"{out} holds something that isn't a journal's site.", param="out")
    evidence = Evidence(journal)
    site = _Site(journal)
    for path in [
        *(day.log for day in journal.days if day.log.is_file()),
        *(p for t in journal.topics for p in sorted(t.rglob("*.md"))),
    ]:
        _prose(site, path)
    for exhibit in evidence.all:
        _record(site, exhibit)
    _trends(site, evidence)
    _front(site, evidence)
    if out.exists():
        shutil.rmtree(out)
    write_whole(out / _MARK, "")
    targets = {page.source.resolve(): page.path for page in site.pages if page.source}
    targets |= {exhibit.path.resolve(): _record_path(journal, exhibit) for exhibit in evidence.kept}
    for page in site.pages:
        link = _Relink(page, targets, out)
        write_whole(out / page.path, render(page.document, link=link, search=_up(page.path) + _SEARCH))
    for plot in sorted(journal.plots.glob("*.svg")):
        write_whole(out / "plots" / plot.name, plot.read_bytes())
    write_whole(out / _SEARCH, _search_page(site))
    return len(site.pages) + 1


@dataclass(frozen=True, slots=True)
class _Relink:
    """Leads links between files of the journal to their pages. Those to other files, which no site has, go nowhere."""

    page: _Page
    targets: dict[Path, str]
    out: Path

    def __call__(self, href: str) -> str:
        if re.match(r"[a-z][a-z0-9+.-]*:|#|//", href, re.IGNORECASE) or self.page.source is None:
            return href
        path, mark, rest = href.partition("#")
        target = self.targets.get((self.page.source.parent / path).resolve())
        return f"{_up(self.page.path)}{target}{mark}{rest}" if target else f"#{rest}"


def _front(site: _Site, evidence: Evidence) -> None:
    journal = site.journal
    text = "\n".join(days_and_topics(journal))
    sections = []
    trends = [page for page in site.pages if page.path.startswith("history/")]
    if trends:
        links = tuple((Cell(page.document.title, href=page.path),) for page in trends)
        sections.append(Section("History", (Table(("metric",), links),)))
    made = matrix(evidence.all)
    if made.cells:
        headings, rows = made.table()
        table = Table(tuple(headings), tuple(tuple(row) for row in rows), caption=f"Dots are holes; {made.unit}.")
        sections.append(Section(f"What was measured: {made.metric}", (table,)))
    if evidence.problems:
        points = tuple(str(problem) for problem in evidence.problems)
        sections.append(Section("Problems", (Callout("Some Records can't be used.", "warn", points),)))
    if evidence.all:
        sections.append(Section("Records", (_record_table(journal, evidence.all),)))
    document = Document(
        title=f"Journal of {journal.root.parent.name or 'a laboratory'}", kind="Journal",
        lead=(Prose(_unbroken_dates(text)),) if text else (), sections=tuple(sections),
    )  # fmt: skip
    site.add("index.html", document, text, journal.root / "JOURNAL_INDEX.md")


def _unbroken_dates(text: str) -> str:
    """With hyphens at which narrow columns break no line; links, which have no dates, stay."""
    return re.sub(r"\b(\d{4})-(\d\d)-(\d\d)\b", "\\1\u2011\\2\u2011\\3", text)


def _record_table(journal: Journal, exhibits: list[Exhibit]) -> Table:
    rows = []
    for exhibit in exhibits:
        record = exhibit.record
        flaws = ", ".join(flaw.kind for flaw in record.flaws)
        rows.append((
            Cell(exhibit.name, href=_record_path(journal, exhibit)), record.workload.name, record.subject.name,
            machine_name(record.machine), f"{record.created:%Y-%m-%d}", Cell(flaws, tone="bad" if flaws else "plain"),
        ))  # fmt: skip
    return Table(("Record", "workload", "subject", "machine", "taken", "flaws"), tuple(rows))


def _prose(site: _Site, path: Path) -> None:
    try:
        raw = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RecordError(f"{path} can't be read: {error.strerror}.") from error
    text = re.sub(r"<!--.*?-->", "", raw, flags=re.DOTALL)
    match = re.match(r"\s*#\s+(.+)\n", text)
    title = match[1].strip() if match else path.stem
    body = text[match.end() :] if match else text
    page = path.relative_to(site.journal.root).with_suffix(".html").as_posix()
    kind = "Day" if page.startswith("days/") else "Topic"
    site.add(page, Document(title=title, kind=kind, lead=(Prose(body),), trail=_trail(page)), body, path)


def _record(site: _Site, exhibit: Exhibit) -> None:
    record = exhibit.record
    rows = []
    for metric in record.metrics:
        cells: list[Cell | str] = [metric.name, Cell(str(metric.n), sort=metric.n), Estimate.of(metric).cell()]
        for name in ("p50", "p90", "p95", "p99", "min", "max"):
            value = getattr(metric, name)
            cells.append(Cell(figure(value, metric.unit), sort=value, title=f"{value!r} {metric.unit}"))
        rows.append(tuple(cells))
    columns = ("metric", "n", "mean [95 %]", "p50", "p90", "p95", "p99", "smallest", "largest")
    lead: list[Callout | Paragraph] = [Callout(flaw.reason, "bad") for flaw in record.flaws]
    lead += [Paragraph(text, soft=True) for text in record.notes]
    sections = [Section("Figures", (Table(columns, tuple(rows)),)), machine_section(record)]
    if record.command:
        import shlex

        sections.append(Section("Command", (Code(shlex.join(record.command)),)))
    path = _record_path(site.journal, exhibit)
    document = Document(
        title=f"{record.subject.name} {record.subject.version}: {record.workload.name}",
        subtitle=f"{exhibit.label(site.journal)}, {record.created:%Y-%m-%d}, {machine_name(record.machine)}",
        kind="Record", lead=tuple(lead), sections=tuple(sections), trail=_trail(path),
    )  # fmt: skip
    words = [document.title, document.subtitle, *(metric.name for metric in record.metrics), *record.notes]
    site.add(path, document, " ".join(words))


def _trends(site: _Site, evidence: Evidence) -> None:
    """One page for each headline metric of which there is more than one moment."""
    for metric in HEADLINES:
        try:
            trends = [trend for trend in history(evidence, metric) if len(trend.moments) > 1]
        except InvalidRequestError:
            continue
        if not trends:
            continue
        path = f"history/{metric}.html"
        subjects = {trend.subject: [t for t in trends if t.subject == trend.subject] for trend in trends}
        document = Document(
            title=f"{metric} over commits", kind="History", trail=_trail(path),
            lead=(Paragraph("On one machine each; upright lines are steps, a star is a dirty checkout.", soft=True),),
            sections=tuple(
                Section(name, (Grid(tuple(_trend_plot(metric, trend) for trend in own)),))
                for name, own in sorted(subjects.items())
            ),
        )  # fmt: skip
        words = [document.title, *(f"{trend.subject} {trend.workload} {trend.machine}" for trend in trends)]
        site.add(path, document, " ".join(words))


def _trend_plot(metric: str, trend: Trend) -> Plot:
    names = tuple(moment.commit[:7] + ("*" if moment.dirty else "") or "none" for moment in trend.moments)
    at = [float(i) for i in range(len(names))]
    series = Series(
        name=trend.subject, x=at, y=[m.value for m in trend.moments], low=[m.low for m in trend.moments],
        high=[m.high for m in trend.moments], marked=True,
        labels=[f"{m.created:%Y-%m-%d}, {m.software}" for m in trend.moments],
    )  # fmt: skip
    return Plot(
        title=f"{trend.workload}, on {trend.machine}",
        caption=f"Hardware {trend.hardware}.",
        x=Axis(label="commit", categories=names),
        y=Axis(label=metric, unit=trend.unit),
        series=(series,),
        marks=tuple(Mark(at=step.index - 0.5, label=f"step, p = {step.p:.3f}") for step in trend.steps),
    )


def _search_page(site: _Site) -> str:
    entries = [
        {"title": page.document.title, "href": page.path, "text": re.sub(r"\s+", " ", page.text)} for page in site.pages
    ]
    document = Document(title="Search", kind="Journal", trail=(Link("Journal", "index.html"),))
    place = element("div", element("div", id="found", aria_live="polite"), class_="sheet")
    return render(
        document, search=_SEARCH, scripts=("search.js",), data=Markup(place + data_block("search-index", entries))
    )


def _record_path(journal: Journal, exhibit: Exhibit) -> str:
    if exhibit.day is not None:
        return f"days/{exhibit.day.name}/{exhibit.name}.record.html"
    relative = os.path.relpath(exhibit.path.resolve(), journal.benchmarks).replace(os.sep, "/")
    return f"records/{relative.removesuffix('.json')}.html"


def _trail(path: str) -> tuple[Link, ...]:
    return (Link("Journal", f"{_up(path)}index.html"),)


def _up(path: str) -> str:
    """From a page to the site's folder."""
    return "../" * (len(PurePosixPath(path).parts) - 1)
