"""What the command shows: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress, TaskID

# Control characters in a model's text could rewrite the terminal; line feed and tab are kept.
_CONTROLS = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])


def say(text: str) -> None:
    """A line of a result."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """A line that is no result."""
    sys.stderr.write(text + "\n")


def note_loading(model: str) -> None:
    """Tell someone at a terminal why the next seconds are quiet."""
    if sys.stderr.isatty():
        note(f"Loading {model} ...")


def counted(number: int, noun: str) -> str:
    """ "1 record", "2 records"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def say_json(value: Any) -> None:
    """One JSON document on one line, so that several of them are JSONL."""
    say(json.dumps(value, ensure_ascii=False))


def table(headings: list[str], rows: list[list[str]]) -> None:
    """Rows under headings: drawn on a terminal, tab-separated into a pipe."""
    if not sys.stdout.isatty():
        for row in [headings, *rows]:
            say("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        drawn.add_column(heading, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    Console().print(drawn)


def printable(text: str) -> str:
    """`text` without what would command a terminal instead of being shown on it."""
    return text.translate(_CONTROLS)


class PullBar(AbstractContextManager["PullBar"]):
    """Shows how a pull goes: a bar on a terminal, a line for each stage elsewhere. Nothing if nothing is pulled."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        new = stage != self._stage
        self._stage = stage
        if not sys.stderr.isatty():
            if new and stage.startswith(("downloading", "waiting")):
                from penstock.core.sizes import format_size

                note(f"penstock: {stage}" + (f" ({format_size(total)})" if total else ""))
            return
        if self._bar is None:
            self._bar = _download_bar()
            self._bar.start()
        if new or self._task is None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(stage, total=total)
        self._bar.update(self._task, completed=done, total=total)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


class CountBar(AbstractContextManager["CountBar"]):
    """Prompts done, tokens a second and time left, on a terminal, from the first token on."""

    def __init__(self, words: str) -> None:
        self._words = words
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __call__(self, done: int, total: int, tokens: int) -> None:
        if not tokens or not sys.stderr.isatty():
            return  # before the first token a pull may be drawing its own bar
        if self._bar is None or self._task is None:
            self._bar = _count_bar()
            self._bar.start()
            self._task = self._bar.add_task(self._words, total=total, speed="")
        elapsed = self._bar.tasks[0].elapsed or 0.0
        speed = f"{tokens / elapsed:.0f} tok/s" if elapsed else ""
        self._bar.update(self._task, completed=done, total=total, speed=speed)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _download_bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.table import Column

    whole = Column(no_wrap=True)  # one line of 80 columns, the stage's name cut if need be
    stage = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, max_width=34))
    columns = (
        stage,
        BarColumn(bar_width=12),
        DownloadColumn(table_column=whole.copy()),
        TransferSpeedColumn(table_column=whole.copy()),
    )
    left = TimeRemainingColumn(table_column=whole.copy())
    return Progress(*columns, left, console=Console(stderr=True), transient=True)


def _count_bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    speed = TextColumn("{task.fields[speed]}", markup=False)
    return Progress(*columns, speed, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
