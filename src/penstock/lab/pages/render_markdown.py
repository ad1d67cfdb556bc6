"""A document as Markdown, for terminals, pull requests and language models. Plots are left to the page."""

from __future__ import annotations

import re
from functools import singledispatch
from typing import TYPE_CHECKING

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
from penstock.lab.pages.html import is_safe_link
from penstock.lab.pages.plots import Plot

if TYPE_CHECKING:
    from penstock.lab.pages.document import Block, Document

# What could become an element, a link, emphasis, code or a table's border.
_SIGNS = re.compile(r"([\\`*_\[\]<>|~&])")
_LINE_START = re.compile(r"^(\s*)([#+=-]|\d+[.)])", re.MULTILINE)


def render(document: Document) -> str:
    """The whole file's text."""
    parts = [f"# {_text(document.title)}"]
    if document.subtitle:
        parts.append(_text(document.subtitle))
    parts += [_block(block) for block in document.lead]
    for section in document.sections:
        parts.append(f"## {_text(section.title)}")
        parts += [_block(block) for block in section.blocks]
    parts += [_text(line) for line in document.footer]
    return "\n\n".join(part for part in parts if part) + "\n"


def _text(value: str) -> str:
    """On one line, as text."""
    line = " ".join(value.split())
    return _LINE_START.sub(r"\1\\\2", _SIGNS.sub(r"\\\1", line)) if line else ""


def _inner(value: str) -> str:
    """Within a line, where a leading sign means nothing."""
    return _SIGNS.sub(r"\\\1", " ".join(value.split()))


@singledispatch
def _block(block: Block) -> str:
    raise TypeError(f"Markdown can't show a {type(block).__name__}")


@_block.register
def _(block: Paragraph) -> str:
    return _text(block.text)


@_block.register
def _(block: Callout) -> str:
    lines = [f"> **{_inner(block.text)}**", *(f"> - {_inner(point)}" for point in block.points)]
    return "\n".join(lines[:1] + [">"] * bool(block.points) + lines[1:])


@_block.register
def _(block: Cards) -> str:
    rows = tuple((card.name, card.value, card.interval, card.note) for card in block.cards)
    return _block(Table(("figure", "value", "95 % interval", ""), rows)) if rows else ""


@_block.register
def _(block: Table) -> str:
    if not block.rows:
        return ""
    numeric = [
        any(isinstance(row[at], Cell) and isinstance(row[at].sort, int | float) for row in block.rows)  # type: ignore[union-attr]
        for at in range(len(block.columns))
    ]
    lines = [f"{_text(block.caption)}\n"] if block.caption else []
    lines.append(_row([_inner(name) for name in block.columns]))
    lines.append(_row(["---:" if number else "---" for number in numeric]))
    lines += [_row([_cell(cell) for cell in row]) for row in block.rows]
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return _inner(cell)
    shown = _inner(f"{cell.text} ({cell.below})" if cell.below else cell.text)
    if cell.badge and shown:
        shown = f"**{shown}**"
    if cell.href and is_safe_link(cell.href):
        return f"[{shown}](<{cell.href.replace('>', '%3E').replace('<', '%3C').replace('|', '%7C')}>)"
    return shown


@_block.register
def _(block: Pairs) -> str:
    return "\n".join(f"- {_inner(name)}: {_inner(value)}" for name, value in block.pairs)


@_block.register
def _(block: Code) -> str:
    longest = max((len(run) for run in re.findall("`+", block.text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{block.text}\n{fence}"


@_block.register
def _(block: Prose) -> str:
    return block.markdown.strip()


@_block.register
def _(block: Plot | Views | Grid) -> str:  # noqa: ARG001 - what is drawn has no words
    return ""


@_block.register
def _(block: Folded) -> str:
    inside = [part for part in map(_block, block.blocks) if part]
    return "\n\n".join([f"### {_text(block.title)}", *inside]) if inside else ""
