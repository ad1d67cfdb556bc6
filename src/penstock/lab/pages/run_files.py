"""Run pages from files: records with what is attached to them, or observations alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError, RecordError
from penstock.core.record import Record
from penstock.lab.bench.observations import Observations
from penstock.lab.bench.records import flaws_of, metrics_of
from penstock.lab.bench.slo import Slo
from penstock.lab.pages.run_page import RunPage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def read(paths: Sequence[Path], slo: Slo | None = None, title: str | None = None) -> list[tuple[Path, RunPage]]:
    """A page's input for each record, and one for all observations that are given apart; with the path it is of.

    Args:
        slo: instead of the one the record was made with.

    Raises:
        InvalidRequestError: a file is neither, or can't be read.
        RecordError: a record can't be used.
    """
    pages = []
    apart = []
    for path in paths:
        if path.suffix == ".npz":
            apart.append(path)
        elif path.suffix == ".json":
            pages.append((path, of_record(Record.load(path), path.parent, slo, title or path.stem)))
        else:
            raise InvalidRequestError(
                f"{path} is neither a record (.json) nor observations (.npz).", param="files", code="file_type"
            )
    if apart:
        runs = [Observations.load(path) for path in apart]
        page = RunPage(
            title=title or apart[0].stem, metrics=metrics_of(runs, slo), runs=runs, flaws=flaws_of(runs), slo=slo
        )
        pages.append((apart[0], page))
    return pages


def of_record(record: Record, folder: Path, slo: Slo | None, title: str) -> RunPage:
    """With the observations that lie beside it; a page without them says why."""
    attached = [file.path for file in record.files if file.path.endswith(".npz")]
    notes = list(record.notes)
    runs: list[Observations] = []
    if attached:
        try:
            record.verify_files(folder)
            runs = [Observations.load(folder / path) for path in attached]
        except (RecordError, InvalidRequestError) as error:
            notes.append(f"What was seen of each request is not drawn: {error.message}")
            runs = []
    if any(not run.meta.get("spread", {"columns": True})["columns"] for run in runs):
        notes.append("What was seen of each request is not drawn: its columns stayed with the workers.")
        runs = []
    return RunPage(
        title=title, metrics=record.metrics, runs=runs, flaws=record.flaws, slo=slo or _slo_of(record), record=record,
        notes=notes,
    )  # fmt: skip


def _slo_of(record: Record) -> Slo | None:
    told = record.workload.parameters.get("slo")
    if not isinstance(told, dict) or not isinstance(told.get("bounds"), str):
        return None
    return Slo.parse(told["bounds"], float(told.get("share", 0.99)))
