"""What a page says, before it is HTML or Markdown: a tree of blocks. Strings are text, in no markup language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from penstock.lab.pages.plots import Plot, Tone


@dataclass(frozen=True, slots=True)
class Cell:
    """Of a table."""

    text: str
    sort: float | str | None = None  # what the column is sorted by; None: the text
    tone: Tone = "plain"
    badge: bool = False  # drawn as a verdict
    title: str = ""  # more, where one points at it
    href: str = ""
    below: str = ""  # an interval, in small print


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str
    soft: bool = False


@dataclass(frozen=True, slots=True)
class Callout:
    """A sentence that must not be missed, and more below it."""

    text: str
    tone: Tone = "plain"
    points: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Card:
    """A headline figure."""

    name: str
    value: str
    interval: str = ""
    note: str = ""
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Cards:
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """The first column names the row. Columns whose cells sort by numbers are set to the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell | str, ...], ...]
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells in a table of {len(self.columns)} columns")


@dataclass(frozen=True, slots=True)
class Pairs:
    """Names and values: configurations, machines."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Code:
    """Set as it is: a command, an error's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Prose:
    """Somebody's Markdown; HTML in it is shown as text."""

    markdown: str


@dataclass(frozen=True, slots=True)
class Views:
    """Of the same thing, one seen at a time."""

    title: str
    views: tuple[tuple[str, Block], ...]  # the button's word, what it shows


@dataclass(frozen=True, slots=True)
class Grid:
    """Side by side where there is room."""

    blocks: tuple[Plot | Views, ...]


@dataclass(frozen=True, slots=True)
class Folded:
    """Shown when asked for."""

    title: str
    blocks: tuple[Block, ...]


Block: TypeAlias = "Paragraph | Callout | Cards | Table | Pairs | Code | Prose | Plot | Views | Grid | Folded"


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Link:
    text: str
    href: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A page. `lead` blocks stand before the first section."""

    title: str
    subtitle: str = ""
    kind: str = ""  # above the title: "Load", "Sweep"
    lead: tuple[Block, ...] = ()
    sections: tuple[Section, ...] = ()
    footer: tuple[str, ...] = ()
    trail: tuple[Link, ...] = ()  # of a site: the way from its front page
