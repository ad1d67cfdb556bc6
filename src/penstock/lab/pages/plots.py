"""What a plot shows; `assets/plot.js` draws it, `svg` does so where no script runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_POINTS = 20_000  # of one plot: some 400 kB

Kind = Literal["line", "step", "points", "bars"]
Tone = Literal["plain", "good", "warn", "bad", "soft"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    label: str
    unit: str = "1"  # as records have it; "s", "bytes" and "share" are scaled to read well
    log: bool = False  # at first; a reader may switch
    from_zero: bool = False
    categories: tuple[str, ...] = ()  # x only: names of 0, 1, 2, ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """Points in order of x. NaN in y breaks a line.

    Kinds: `line`; `step`, which holds y until the next x (a cumulative distribution); `points`; `bars`, from `x` to
    `x_end`, or around whole numbers over categories.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()  # an interval around y: whiskers, or a band around a line
    high: Sequence[float] = ()
    x_end: Sequence[float] = ()
    kind: Kind = "line"
    right: bool = False  # measured on the axis on the right
    labels: Sequence[str] = ()  # what more is to be said of each point
    colour: int | None = None  # place in the palette; None: the next one
    tone: Tone | None = None  # a meaning's colour instead
    dashed: bool = False
    marked: bool = False  # a line with its points drawn
    shown: bool = True  # at first
    note: str = ""  # how many points were left out, and how

    def __post_init__(self) -> None:
        for name in ("y", "low", "high", "x_end", "labels"):
            count = len(getattr(self, name))
            if count != len(self.x) and (count or name == "y"):
                raise ValueError(f"series {self.name!r} has {len(self.x)} x and {count} {name}")
        if bool(len(self.low)) != bool(len(self.high)):
            raise ValueError(f"series {self.name!r} has half an interval")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A line across the plot at `at`, or a band up to `until`."""

    at: float
    label: str
    until: float | None = None
    across: Literal["x", "y"] = "x"  # the axis that `at` is a value of
    tone: Tone = "soft"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plot:
    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    right: Axis | None = None
    marks: tuple[Mark, ...] = ()
    caption: str = ""
    height: int = 300  # CSS pixels

    def __post_init__(self) -> None:
        if any(series.right for series in self.series) and self.right is None:
            raise ValueError(f"plot {self.title!r} has series on a right axis that it doesn't have")
        if (count := sum(len(series.x) for series in self.series)) > MOST_POINTS:
            raise ValueError(f"plot {self.title!r} has {count} points, more than {MOST_POINTS}: thin them first")

    @property
    def is_empty(self) -> bool:
        return not any(len(series.x) for series in self.series)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, each said once."""
        return tuple(dict.fromkeys(series.note for series in self.series if series.note))

    def data(self) -> dict[str, Any]:
        """For `plot.js`."""
        return {
            "title": self.title,
            "height": self.height,
            "x": _axis(self.x),
            "y": _axis(self.y),
            "right": None if self.right is None else _axis(self.right),
            "series": [_series(series) for series in self.series],
            "marks": [
                {"at": m.at, "until": m.until, "label": m.label, "across": m.across, "tone": m.tone} for m in self.marks
            ],
        }


def _axis(axis: Axis) -> dict[str, Any]:
    return {
        "label": axis.label, "unit": axis.unit, "log": axis.log, "fromZero": axis.from_zero,
        "categories": list(axis.categories),
    }  # fmt: skip


def _series(series: Series) -> dict[str, Any]:
    data: dict[str, Any] = {
        "name": series.name, "kind": series.kind, "right": series.right, "colour": series.colour, "tone": series.tone,
        "dashed": series.dashed, "marked": series.marked, "shown": series.shown, "note": series.note,
    }  # fmt: skip
    for key, column in (
        ("x", series.x), ("y", series.y), ("low", series.low), ("high", series.high), ("xEnd", series.x_end)
    ):  # fmt: skip
        data[key] = [float(value) for value in column]
    return data | {"labels": [str(label) for label in series.labels]}
