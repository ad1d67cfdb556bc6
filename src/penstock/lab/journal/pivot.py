"""One metric of many Records as a table of two of their parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.lab.journal.fields import metric_of, value_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from penstock.core.record import Metric
    from penstock.lab.journal.evidence import Exhibit


@dataclass(frozen=True, slots=True)
class Cell:
    exhibit: Exhibit
    metric: Metric
    value: float


@dataclass(frozen=True, slots=True)
class Pivot:
    rows: tuple[Any, ...]
    columns: tuple[Any, ...]
    cells: dict[tuple[Any, Any], Cell]

    @property
    def holes(self) -> int:
        return len(self.rows) * len(self.columns) - len(self.cells)


def pivot(exhibits: Iterable[Exhibit], metric: str, rows: Sequence[str], columns: Sequence[str]) -> Pivot:
    """Rows and columns are told apart by the named parts, and ordered by them. Of several Records the newest counts."""
    cells: dict[tuple[Any, Any], Cell] = {}
    for exhibit in sorted(exhibits, key=lambda each: (each.record.created, each.name)):
        found = metric_of(exhibit.record, metric)
        if found is None:
            continue
        key = (
            tuple(_plain(value_of(exhibit, part)) for part in rows),
            tuple(_plain(value_of(exhibit, part)) for part in columns),
        )
        cells[key] = Cell(exhibit, *found)
    return Pivot(
        tuple(sorted({row for row, _ in cells}, key=_order)),
        tuple(sorted({column for _, column in cells}, key=_order)),
        cells,
    )


def natural(value: Any) -> tuple[int, float, str]:
    """Sorts numbers as numbers, before texts, before nothing."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (0, float(value), "")
    return (1, 0.0, str(value)) if value is not None else (2, 0.0, "")


def _order(values: tuple[Any, ...]) -> list[tuple[int, float, str]]:
    return [natural(value) for value in values]


def _plain(value: Any) -> Any:
    """Something that can be a key."""
    return value if isinstance(value, str | int | float | None) else str(value)
