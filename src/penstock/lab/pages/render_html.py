"""A document as one HTML file: style, script and data inside; nothing is loaded, and a policy keeps it so."""

from __future__ import annotations

import base64
import hashlib
from functools import cache, singledispatchmethod
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.lab.pages import palette, prose
from penstock.lab.pages.document import (
    Callout,
    Cards,
    Cell,
    Code,
    Folded,
    Grid,
    Pairs,
    Paragraph,
    Prose,
    Table,
    Views,
)
from penstock.lab.pages.html import Markup, data_block, element, join
from penstock.lab.pages.plots import Plot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from penstock.lab.pages.document import Block, Document, Section

_ASSETS = Path(__file__).parent / "assets"
# Put together into one module, in this order; none imports another.
_SCRIPTS = (
    "dom.js",
    "units.js",
    "scales.js",
    "drawing.js",
    "axes.js",
    "plot.js",
    "plot_table.js",
    "tables.js",
    "views.js",
)


def render(
    document: Document,
    *,
    link: Callable[[str], str] = str,
    search: str = "",
    scripts: tuple[str, ...] = (),
    data: Markup = Markup(),  # noqa: B008 - an immutable string
) -> str:
    """The whole file's text.

    Args:
        link: leads the links in prose elsewhere.
        search: where the site's search page is; "" without one.
        scripts: further files of `assets`.
        data: further blocks for these scripts.
    """
    writer = _Writer(link)
    body = element(
        "div",
        _header(document, search),
        element("main", *map(writer.block, document.lead), *map(writer.section, document.sections)),
        _footer(document),
        class_="sheet",
    )
    script, style = _script(scripts), _style()
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        Markup('<meta charset="utf-8">'),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", document.title),
        Markup(f"<style>{style}</style>"),
    )
    scripted = Markup(f'<script type="module">{script}</script>')
    page = element("html", head, element("body", body, writer.blocks, data, scripted), lang="en")
    # A file's lone surrogates (of a server's broken text) are no UTF-8.
    return f"<!doctype html>\n{page}\n".encode("utf-8", "replace").decode()


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _script(more: tuple[str, ...]) -> str:
    parts = [(_ASSETS / name).read_text(encoding="utf-8") for name in (*_SCRIPTS, *more)]
    return "\n".join([*parts, "start();\n"])


@cache
def _style() -> str:
    colours = [
        "".join(f"--series-{at}: {colour};" for at, colour in enumerate(colours))
        for colours in (palette.LIGHT, palette.DARK)
    ]
    sheet = (_ASSETS / "style.css").read_text(encoding="utf-8")
    return (
        f":root {{{colours[0]}}}\n@media screen and (prefers-color-scheme: dark) {{ :root {{{colours[1]}}} }}\n{sheet}"
    )


def _header(document: Document, search: str) -> Markup:
    trail = [element("a", link.text, href=link.href) for link in document.trail]
    field = None
    if search:
        field = element(
            "div",
            element("label", "Search", for_="search", class_="sr-only"),
            element("input", id="search", type="search", placeholder="Search", data_page=search, autocomplete="off"),
            class_="search",
        )
    return element(
        "header",
        element("nav", join(trail, Markup(" / ")), field, class_="trail") if trail or field else None,
        element("p", document.kind, class_="kind") if document.kind else None,
        element("h1", document.title),
        element("p", document.subtitle, class_="subtitle") if document.subtitle else None,
        _contents(document.sections) if len(document.sections) > 2 else None,
    )


def _contents(sections: Iterable[Section]) -> Markup:
    links = [element("a", section.title, href=f"#{anchor(section.title)}") for section in sections]
    return element("nav", *links, class_="contents", aria_label="Sections")


def anchor(title: str) -> str:
    """A section's id."""
    return "-".join("".join(sign if sign.isalnum() else " " for sign in title.lower()).split()) or "section"


def _footer(document: Document) -> Markup | None:
    lines = [element("p", line) for line in document.footer]
    return element("footer", *lines) if lines else None


class _Writer:
    """Blocks to HTML. The plots' data is gathered in `blocks`."""

    def __init__(self, link: Callable[[str], str]) -> None:
        self._link = link
        self._plots: list[Markup] = []

    @property
    def blocks(self) -> Markup:
        return join(self._plots)

    def section(self, section: Section) -> Markup:
        return element(
            "section",
            element("h2", section.title, id=anchor(section.title)),
            *map(self.block, section.blocks),
        )

    @singledispatchmethod
    def block(self, block: Block) -> Markup:
        raise TypeError(f"a page can't show a {type(block).__name__}")

    @block.register
    def _(self, block: Paragraph) -> Markup:
        return element("p", block.text, class_="soft" if block.soft else None)

    @block.register
    def _(self, block: Callout) -> Markup:
        points = element("ul", *(element("li", point) for point in block.points)) if block.points else None
        return element("div", element("p", block.text), points, class_=f"callout {block.tone}", role="note")

    @block.register
    def _(self, block: Cards) -> Markup:
        cards = [
            element(
                "div",
                element("dt", card.name),
                element("dd", *_with_small_unit(card.value), class_="value"),
                element("dd", card.interval, class_="interval") if card.interval else None,
                element("dd", card.note, class_="note") if card.note else None,
                class_=f"card {card.tone}",
            )
            for card in block.cards
        ]
        return element("dl", *cards, class_="cards")

    @block.register
    def _(self, block: Table) -> Markup:
        numeric = [
            any(isinstance(row[at], Cell) and isinstance(row[at].sort, int | float) for row in block.rows)  # type: ignore[union-attr]
            for at in range(len(block.columns))
        ]
        head = [
            element("th", name, scope="col", class_="number" if numeric[at] else None)
            for at, name in enumerate(block.columns)
        ]
        rows = [
            element("tr", *(_cell(cell, at, numeric=numeric[at]) for at, cell in enumerate(row))) for row in block.rows
        ]
        table = element(
            "table",
            element("caption", block.caption) if block.caption else None,
            element("thead", element("tr", *head)),
            element("tbody", *rows),
            class_="sortable" if len(block.rows) > 1 else None,
        )
        return element("div", table, class_="scroll", tabindex="0")

    @block.register
    def _(self, block: Pairs) -> Markup:
        rows = [element("div", element("dt", name), element("dd", value)) for name, value in block.pairs]
        return element("dl", *rows, class_="pairs")

    @block.register
    def _(self, block: Code) -> Markup:
        return element("pre", element("code", block.text), tabindex="0")

    @block.register
    def _(self, block: Prose) -> Markup:
        return element("div", prose.to_html(block.markdown, self._link), class_="prose")

    @block.register
    def _(self, block: Plot) -> Markup:
        name = f"plot-{len(self._plots)}"
        self._plots.append(data_block(f"{name}-data", block.data()))
        words = [block.caption, *block.notes]
        caption = " ".join(word if word.endswith(".") else f"{word}." for word in words if word)
        return element(
            "figure",
            element("h3", block.title),
            element("p", "Nothing to draw.", class_="soft")
            if block.is_empty
            else element("div", class_="drawn", data_plot=f"{name}-data"),
            element("figcaption", caption) if caption else None,
            id=name,
            class_="plot",
        )

    @block.register
    def _(self, block: Views) -> Markup:
        tabs = [
            element("button", word, type="button", aria_pressed="true" if at == 0 else "false")
            for at, (word, _) in enumerate(block.views)
        ]
        plots = [
            element("div", self.block(plot), class_="view", hidden=at > 0) for at, (_, plot) in enumerate(block.views)
        ]
        group = element("div", *tabs, class_="tabs", role="group", aria_label=block.title)
        return element("div", group, *plots, class_="views")

    @block.register
    def _(self, block: Grid) -> Markup:
        return element("div", *map(self.block, block.blocks), class_="grid")

    @block.register
    def _(self, block: Folded) -> Markup:
        return element("details", element("summary", block.title), *map(self.block, block.blocks))


def _with_small_unit(value: str) -> tuple[str, ...]:
    number, space, unit = value.partition(" ")
    return (number, space, element("small", unit)) if unit else (value,)


def _cell(cell: Cell | str, at: int, *, numeric: bool) -> Markup:
    if isinstance(cell, str):
        cell = Cell(cell)
    inside: str = cell.text
    if cell.badge:
        inside = element("span", inside, class_=f"badge {cell.tone}")
    if cell.below:
        inside = join([inside, element("small", cell.below)])
    if cell.href:
        inside = element("a", inside, href=cell.href)
    classes = " ".join(["number"] * numeric + [cell.tone] * (cell.tone != "plain" and not cell.badge))
    sort = None if cell.sort is None else str(cell.sort)
    attributes = {"class_": classes or None, "data_sort": sort, "title": cell.title or None}
    return element("th", inside, scope="row", **attributes) if at == 0 else element("td", inside, **attributes)
