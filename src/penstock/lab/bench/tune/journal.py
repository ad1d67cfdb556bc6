"""Every run of a study on a line of its own, written as soon as it is over, so that a study can go on after a cut."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.core.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from penstock.lab.bench.tune.space import Settings
    from penstock.lab.bench.tune.trying import Run

NAME = "trials.jsonl"
_FORMAT = 1


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run."""

    stage: str
    settings: dict[str, Any]  # those that differ from the defaults
    repeat: int
    figure: float | None
    figures: dict[str, float]
    wasted: str
    failed: str
    seconds: float


class Journal:
    """A file of runs below a line that says which study they are of. `runs` are those of the search.

    Args:
        folder: None: nothing is written.
        of: what must be the same for the study to go on: load, objective, space, model; JSON values.
        resume: go on with the file that is there.

    Raises:
        InvalidRequestError: there is a study and it isn't to go on, it is of something else, or it can't be read.
    """

    def __init__(self, folder: Path | None, of: Mapping[str, Any], *, resume: bool) -> None:
        self.path = None if folder is None else folder / NAME
        self.runs: list[Entry] = []
        if self.path is None:
            return
        head = json.dumps({"tune": _FORMAT, "of": of}, ensure_ascii=False, sort_keys=True)
        lines = [head]
        if self.path.exists():
            lines = self._read(head, resume=resume)
        elif resume:
            raise InvalidRequestError(f"There is no study in {folder} to resume: {self.path} is missing.", param="out")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        except OSError as error:
            raise InvalidRequestError(f"{self.path} can't be written: {error.strerror}.", param="out") from error

    def add(self, stage: str, settings: Settings, repeat: int, run: Run) -> None:
        """A line more."""
        if self.path is None:
            return
        entry = Entry(
            stage=stage, settings=settings, repeat=repeat, figure=run.figure, figures=dict(run.figures),
            wasted=" ".join(run.against), failed=run.failed, seconds=run.seconds,
        )  # fmt: skip
        with self.path.open("ab") as stream:
            stream.write(msgspec.json.encode(entry) + b"\n")

    def _read(self, head: str, *, resume: bool) -> list[str]:
        """The lines that are there, but for a last one that was cut off. Those of the search are `runs`."""
        path = self.path
        assert path is not None
        if not resume:
            raise InvalidRequestError(
                f"{path.parent} holds a study already: go on with it by --resume, or name another folder by --out.",
                param="out",
            )
        try:
            # Text's own idea of lines has more ends than JSON leaves out.
            first, *rest = (path.read_bytes() or b"\n").splitlines()
        except OSError as error:
            raise InvalidRequestError(f"{path} can't be read: {error}.", param="out") from error
        if first != head.encode():
            raise InvalidRequestError(f"The study in {path.parent} is {_difference(first, head)}.", param="resume")
        kept = [head]
        for number, line in enumerate(rest, start=2):
            try:
                entry = msgspec.json.decode(line, type=Entry)
            except msgspec.DecodeError as error:
                if number == len(rest) + 1:
                    break
                raise InvalidRequestError(f"{path}, line {number}, is no run of a study: {error}.") from error
            if entry.stage == "search":
                self.runs.append(entry)
            kept.append(line.decode())
        return kept


def _difference(first: bytes, wanted: str) -> str:
    """In which settings two heads differ."""
    try:
        theirs, mine = json.loads(first)["of"], json.loads(wanted)["of"]
        names = [name for name in {*theirs, *mine} if theirs.get(name) != mine.get(name)]
    except (ValueError, KeyError, TypeError, AttributeError):
        return "none that this Penstock can read"
    return f"of another {', '.join(sorted(names))}" if names else "of another format"
