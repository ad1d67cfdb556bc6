"""Tables: a CSV of anyone's, a measurement a row."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from penstock.lab.imports.columns import ABSENT, NUMBERS, Column, columns_of, number_of
from penstock.lab.imports.figures import LENGTHS, Figures, Spread
from penstock.lab.imports.reading import bad
from penstock.lab.imports.row import Row

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TOOL = "table"

_MOST_DEVICES = 1_000_000


def read(path: Path, rows: Sequence[tuple[int, list[str]]], columns: Sequence[str]) -> list[Row]:
    """A row for each line under the headings that has a figure.

    Args:
        rows: with their line numbers, the headings first.
        columns: as `columns_of` takes them.

    Raises:
        InvalidRequestError: no rows, a line with too few or too many cells, a cell that is no number.
    """
    line, headings = rows[0]
    known = columns_of(path, line, headings, columns)
    if len(rows) == 1:
        raise bad(path, "It has headings and no rows.", line=line)
    found = [_row(path, number, cells, known) for number, cells in rows[1:]]
    kept = [row for row in found if row is not None]
    if not kept:
        raise bad(path, "None of its rows has a figure.")
    return kept


def _row(path: Path, line: int, cells: Sequence[str], columns: Sequence[Column]) -> Row | None:
    if len(cells) != len(columns):
        raise bad(path, f"It has {len(cells)} cells under {len(columns)} headings.", line=line)
    statistics: dict[str, dict[str, float]] = {}
    halves: dict[str, float] = {}
    labels: dict[str, str] = {}
    for column, cell in zip(columns, cells, strict=True):
        if cell.strip().lower() in ABSENT or column.target == "-":
            continue
        if column.figure:
            value, half = number_of(path, line, cell, column.heading)
            statistics.setdefault(column.target, {})[column.statistic] = value * column.factor
            halves[column.target] = max(halves.get(column.target, 0.0), half * column.factor)
        else:
            labels[column.target] = cell.strip()
    if not statistics:
        return None
    requests = statistics.get("requests", {}).get("mean")
    n = int(requests) if requests is not None and math.isfinite(requests) and requests >= 1 else None
    spreads = {
        name: Spread(values, n if name in ("ttft", "e2e") else None, half=halves[name],
                     asked=name in LENGTHS and values.keys() == {"mean"})
        for name, values in statistics.items()
    }  # fmt: skip
    told: dict[str, float] = {
        name: number_of(path, line, labels[name], name)[0] for name in NUMBERS if name in labels
    }  # fmt: skip
    if "devices" in told and not (told["devices"].is_integer() and 0 <= told["devices"] < _MOST_DEVICES):
        raise bad(path, f"A row says that it is of {labels['devices']!r} devices.", line=line)
    configuration: dict[str, Any] = {name: labels[name] for name in ("model", "dtype", "params") if name in labels}
    configuration |= {name[7:]: value for name, value in labels.items() if name.startswith("config.")}
    configuration |= {"devices": told["devices"]} if "devices" in told else {}
    parameters: dict[str, Any] = {name[9:]: value for name, value in labels.items() if name.startswith("workload.")}
    parameters |= {name: told[name] for name in ("concurrency", "rate") if name in told and math.isfinite(told[name])}
    concurrency = told.get("concurrency")
    return Row(
        file=path.name, place=f"line {line}", tool=TOOL, version="", subject=labels.get("subject", "endpoint"),
        subject_version=labels.get("version", ""), hardware=labels.get("hardware", ""), parameters=parameters,
        figures=Figures(spreads, concurrency if concurrency and math.isfinite(concurrency) else None),
        configuration=configuration, notes=tuple(column.guess for column in columns if column.guess),
    )  # fmt: skip
