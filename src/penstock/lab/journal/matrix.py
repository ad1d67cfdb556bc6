"""What was measured and what wasn't: batch, length, quantization and hardware of all Records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.lab.journal.fields import machine_name, metric_of, written
from penstock.lab.journal.pivot import natural

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.core.record import Record
    from penstock.lab.journal.evidence import Exhibit

# Where Records of different makers keep the same thing; the first that is there counts.
_BATCH = ("concurrency", "batch", "batch_size", "streams")
_RATE = ("rate", "request_rate")
_INPUT = ("input_tokens", "prompt_tokens", "prompt_length", "context", "tokens")
_OUTPUT = ("output_tokens", "max_tokens")
_QUANTIZATION = ("quantization", "weights", "dtype", "products")
_CACHE = ("kv_dtype", "kv_cache_dtype", "kv")


@dataclass(frozen=True, slots=True)
class Coordinates:
    hardware: str
    subject: str
    quantization: str
    batch: str
    length: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows are (hardware, subject, quantization), columns (batch, length); `cells` has no entry for a hole."""

    metric: str
    unit: str
    rows: tuple[tuple[str, str, str], ...]
    columns: tuple[tuple[str, str], ...]
    cells: dict[tuple[tuple[str, str, str], tuple[str, str]], float]

    @property
    def holes(self) -> list[tuple[tuple[str, str, str], tuple[str, str]]]:
        return [(row, column) for row in self.rows for column in self.columns if (row, column) not in self.cells]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows of text; a hole is a dot."""
        headings = ["hardware", "subject", "quantization", *(" x ".join(filter(None, each)) for each in self.columns)]
        rows = []
        for row in self.rows:
            values = [self.cells.get((row, column)) for column in self.columns]
            rows.append([*row, *("·" if value is None else written(value) for value in values)])
        return headings, rows


def matrix(exhibits: Iterable[Exhibit], metric: str = "output_throughput.p50", subject: str = "") -> Matrix:
    """Of several Records with the same coordinates the newest counts. Empty if none has the metric."""
    cells = {}
    unit = ""
    for exhibit in sorted(exhibits, key=lambda each: (each.record.created, each.name)):
        found = metric_of(exhibit.record, metric)
        if found is None or exhibit.record.flaws or (subject and exhibit.record.subject.name != subject):
            continue
        at = coordinates(exhibit.record)
        unit = found[0].unit
        cells[(at.hardware, at.subject, at.quantization), (at.batch, at.length)] = found[1]
    rows = tuple(sorted({row for row, _ in cells}))
    columns = tuple(sorted({column for _, column in cells}, key=_order))
    return Matrix(metric, unit, rows, columns, cells)


def coordinates(record: Record) -> Coordinates:
    """An empty text stands for what the Record doesn't tell."""
    work, settings = record.workload.parameters, record.subject.configuration
    batch, rate = _first(work, _BATCH), _first(work, _RATE)
    length = [text for text in (_text(_first(work, _INPUT)), _text(_first(work, _OUTPUT))) if text]
    kinds = (_text(_first(settings, names) or _first(work, names)) for names in (_QUANTIZATION, _CACHE))
    return Coordinates(
        machine_name(record.machine),
        record.subject.name,
        ", KV ".join(kind for kind in kinds if kind),
        _text(batch) or (f"{_text(rate)}/s" if rate else ""),
        "+".join(length),
    )


def _first(values: dict[str, Any], names: Iterable[str]) -> Any:
    return next((values[name] for name in names if values.get(name) not in (None, "")), None)


def _text(value: Any) -> str:
    if value is None or isinstance(value, dict | list):
        return "" if value is None else str(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _order(column: tuple[str, str]) -> list[tuple[int, float, str]]:
    return [natural(float(part) if part.replace(".", "", 1).isdecimal() else part or None) for part in column]
