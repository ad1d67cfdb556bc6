"""Files of results into records: read, judged, named where they can't be true, kept where they can."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from penstock.core.errors import InvalidRequestError, PenstockError, RecordError
from penstock.core.record import Record
from penstock.lab import exits
from penstock.lab.imports import aiperf, guidellm, table, vllm
from penstock.lab.imports.duplicates import duplicates
from penstock.lab.imports.hardware import Limits, chip_of, limits, parse_quantity
from penstock.lab.imports.physics import breaches
from penstock.lab.imports.reading import bad, json_of, lines_of, rows_of, text_of
from penstock.lab.imports.recording import record_of
from penstock.lab.imports.row import Impossible

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from penstock.lab.imports.row import Row

FORMATS = ("auto", "vllm", "guidellm", "aiperf", "csv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the person who imports knows beside the files; it outweighs what a file says."""

    subject: str | None = None
    version: str | None = None
    hardware: str | None = None  # a name of `hardware.CHIPS`
    devices: int | None = None
    bandwidth: float | None = None  # bytes/s of a device
    peak: float | None = None  # operations/s of a device
    params: float | None = None
    dtype: str | None = None
    weights_bytes: float | None = None
    tokens_per_step: float = 1.0
    cached: float = 0.0
    here: bool = False

    def limits_of(self, row: Row) -> Limits:
        """What bounds this row. Raises InvalidRequestError for a chip or type of weights that isn't known."""
        told = row.configuration
        hardware = self.hardware or (row.hardware if row.hardware and chip_of(row.hardware) else None)
        params = self.params
        if params is None and isinstance(told.get("params"), str):
            params = parse_quantity(told["params"], "params", ())
        return limits(
            hardware=hardware, devices=self.devices_of(row), bandwidth=self.bandwidth, peak=self.peak, params=params,
            dtype=self.dtype or told.get("dtype"), weights_bytes=self.weights_bytes,
            tokens_per_step=self.tokens_per_step, cached=self.cached,
        )  # fmt: skip

    def devices_of(self, row: Row) -> int:
        told = row.configuration.get("devices")
        return self.devices or (int(told) if isinstance(told, float) and told else 1)  # a row of a CPU says 0


@dataclass(slots=True)
class Imported:
    """What came of it."""

    records: list[tuple[str, Record]] = field(default_factory=list)  # a name for the record's file, and it
    impossible: list[Impossible] = field(default_factory=list)
    unreadable: list[PenstockError] = field(default_factory=list)  # a file, or a row of one
    notes: list[str] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)  # of the records, once they are saved

    @property
    def exit_code(self) -> int:
        if self.unreadable:
            return self.unreadable[0].exit_code
        return exits.INVALID if self.impossible else 0

    def save(self, folder: Path) -> None:
        """Write the records. One of the same place in the same file is written over, no other is.

        Raises RecordError if the folder can't be written.
        """
        taken: set[Path] = set()
        for name, record in self.records:
            path, number = folder / f"{name}.json", 1
            while path in taken or (path.exists() and not _same_source(path, record)):
                number += 1
                path = folder / f"{name}-{number}.json"
            record.save(path)
            taken.add(path)
            self.paths.append(path)


def import_files(
    paths: Sequence[Path],
    *,
    known: Known | None = None,
    fmt: str = "auto",
    columns: Sequence[str] = (),
    on_file: Callable[[Path], object] | None = None,
) -> Imported:
    """Read all files; a file that can't be read is named and keeps none of the others from being.

    Args:
        fmt: one of FORMATS.
        columns: for tables, as `columns_of` takes them.
        on_file: called before each is read.

    Raises InvalidRequestError for columns without a table.
    """
    known = known or Known()
    found = Imported()
    rows: list[tuple[Row, str]] = []
    for path in paths:
        if on_file is not None:
            on_file(path)
        try:
            text = text_of(path)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            rows += [(row, digest) for row in read(path, text, fmt, columns)]
        except PenstockError as error:
            found.unreadable.append(error)
    if columns and rows and not found.unreadable and all(row.tool != table.TOOL for row, _ in rows):
        raise InvalidRequestError("--columns is of tables, and none of the files is one.", param="columns")
    twice = duplicates([row for row, _ in rows])
    for i, (row, digest) in enumerate(rows):
        found.impossible += row.impossible
        if row.impossible and not row.figures.answers:
            continue  # nothing is left of it
        try:
            wrong = [*row.breaches, *breaches(row.figures, known.limits_of(row))]
        except InvalidRequestError as error:
            found.unreadable.append(InvalidRequestError(f"{row.name()}: {error.message}", param=error.param))
            continue
        if i in twice:
            wrong.append(twice[i])
        if wrong:
            found.impossible += [Impossible(row.file, row.place, breach) for breach in wrong]
            continue
        notes = row.notes
        if row.hardware and not known.hardware and chip_of(row.hardware) is None and not known.bandwidth:
            note = f"No published peaks of {row.hardware!r} are known here: what it can do wasn't judged."
            notes = (*row.notes, note)
        try:
            record = record_of(
                replace(row, notes=notes), digest, subject=known.subject, version=known.version,
                hardware=known.hardware, devices=known.devices_of(row), here=known.here,
            )  # fmt: skip
        except RecordError as error:
            found.unreadable.append(InvalidRequestError(f"{row.name()}: {error.message}", param="file"))
            continue
        found.notes += [each for each in notes if row.tool == table.TOOL]
        found.records.append((_file_name(row), record))
    found.notes = list(dict.fromkeys(found.notes))
    return found


def read(path: Path, text: str, fmt: str = "auto", columns: Sequence[str] = ()) -> list[Row]:
    """A file's measurements. Raises InvalidRequestError if it is of no known format, or not what `fmt` says."""
    json_like = text.lstrip()[:1] in ("{", "[")
    if fmt == "csv" or (fmt in ("auto", "aiperf", "guidellm") and not json_like):
        return _of_csv(path, text, fmt, columns)
    if not json_like:
        raise bad(path, "It is no JSON.", line=1)
    lines = text.strip().split("\n")
    if len(lines) > 1 and _is_object(lines[0]):
        return _of_lines(path, text, fmt)
    value = json_of(path, text)
    if aiperf.claims_line(value):
        return _of_lines(path, text, fmt)
    if isinstance(value, dict) and {"schema_version", "subject", "workload", "metrics"} <= value.keys():
        raise bad(path, "It is a record already: penstock journal add takes it.")
    claims: dict[str, tuple[bool, Any]] = {
        "vllm": (vllm.claims(value), lambda: [vllm.read(path, value)]),
        "guidellm": (guidellm.claims(value), lambda: guidellm.read(path, value)),
        "aiperf": (aiperf.claims(value), lambda: [aiperf.read(path, value)]),
    }
    for name, (claimed, rows) in claims.items():
        if claimed and fmt in ("auto", name):
            found: list[Row] = rows()
            return found
    raise bad(path, _foreign(fmt, [name for name, (claimed, _) in claims.items() if claimed]))


def _of_lines(path: Path, text: str, fmt: str) -> list[Row]:
    """JSONL: AIPerf's requests, or several results that `vllm bench serve --append-result` wrote."""
    lines = list(lines_of(path, text))
    if aiperf.claims_line(lines[0][1]) and fmt in ("auto", "aiperf"):
        return [aiperf.read_lines(path, lines)]
    if vllm.claims(lines[0][1]) and fmt in ("auto", "vllm"):
        return [vllm.read(path, value, f"line {number}") for number, value in lines]
    raise bad(path, _foreign(fmt, []), line=lines[0][0])


def _of_csv(path: Path, text: str, fmt: str, columns: Sequence[str]) -> list[Row]:
    rows = rows_of(path, text)
    if fmt in ("auto", "aiperf") and aiperf.claims_csv(rows[0][1]):
        return [aiperf.read_csv(path, rows)]
    if "Run Info" in rows[0][1]:
        raise bad(path, "It is guidellm's CSV, which has lists in its cells; import its JSON: --output kind=json.")
    if fmt not in ("auto", "csv"):
        raise bad(path, _foreign(fmt, []))
    if len(rows[0][1]) < 2:
        raise bad(path, "It is neither JSON nor a table with headings.", line=rows[0][0])
    return table.read(path, rows, columns)


def _foreign(fmt: str, claimed: Sequence[str]) -> str:
    if claimed:
        return f"It is a result of {claimed[0]}, not of {fmt}; leave --format out."
    tools = "vllm bench serve, guidellm or AIPerf" if fmt == "auto" else fmt
    return f"It is no result of {tools} that can be read here: their fields are not in it."


def _is_object(line: str) -> bool:
    return line.startswith("{") and line.rstrip().endswith("}")


def _file_name(row: Row) -> str:
    name = re.sub(r"\.(json|jsonl|csv|tsv)(\.gz)?$", "", row.file)
    where = re.sub(r"benchmark |line ", "", row.place)
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{name}-{where}" if where else name)


def _same_source(path: Path, record: Record) -> bool:
    try:
        other = Record.load(path)
    except PenstockError:
        return False
    one, two = (each.workload.parameters.get("imported") for each in (other, record))
    return isinstance(one, dict) and isinstance(two, dict) and all(
        one.get(key) == two.get(key) for key in ("file", "sha256", "place"))  # fmt: skip
