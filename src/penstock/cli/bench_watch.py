"""What is seen of a load test while it runs, and how Ctrl-C ends it."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from penstock.cli.output import note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from rich.live import Live
    from rich.table import Table

    from penstock.lab.bench.offer import Progress

_LINE_S = 10.0  # between two lines where there is no terminal
_BAR = 20  # cells
_HEADINGS = ("repeat", "elapsed", "sent", "in flight", "done", "failed", "tokens/s", "TTFT p50")


@contextmanager
def watching(
    repeats: int, *, count: int | None = None, seconds: float | None = None, quiet: bool = False
) -> Iterator[Callable[[int, Progress], None]]:
    """Give what `measure` tells its progress to. A first Ctrl-C interrupts, a second one kills.

    Args:
        count, seconds: of each repeat, which ends with either; None: until its requests are used up.
    """

    def share(progress: Progress) -> float | None:
        """Of a repeat, how much is over."""
        parts = [progress.finished / count] if count else []
        parts += [progress.elapsed / seconds] if seconds else []
        return min(1.0, max(0.0, *parts)) if parts else None

    with once_interruptible():
        if quiet:
            yield lambda _repeat, _progress: None
        elif sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            with Live(console=Console(stderr=True), refresh_per_second=8, transient=True) as live:
                yield _Drawn(live, repeats, share)
        else:
            yield _Written(repeats, share)


class _Drawn:
    """A table that keeps changing; repeats that are over stay in it."""

    def __init__(self, live: Live, repeats: int, share: Callable[[Progress], float | None]) -> None:
        self._live = live
        self._repeats = repeats
        self._share = share
        self._latest: dict[int, Progress] = {}

    def __call__(self, repeat: int, progress: Progress) -> None:
        self._latest[repeat] = progress
        self._live.update(self._table())

    def _table(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold", caption="Ctrl-C ends it with what was measured.")
        for heading in _HEADINGS:
            table.add_column(heading, justify="right", no_wrap=True)
        for repeat, progress in self._latest.items():
            share = self._share(progress) if repeat == max(self._latest) else None
            bar = "" if share is None else ProgressBar(1.0, share, width=_BAR)
            table.add_row(*_cells(repeat, self._repeats, progress), bar)
        return table


class _Written:
    """A line now and then."""

    def __init__(self, repeats: int, share: Callable[[Progress], float | None]) -> None:
        self._repeats = repeats
        self._share = share
        self._next = (0, _LINE_S)

    def __call__(self, repeat: int, progress: Progress) -> None:
        current, at = self._next
        if repeat != current:
            current, at = repeat, _LINE_S
        if progress.elapsed >= at:
            cells = _cells(repeat, self._repeats, progress)
            share = self._share(progress)
            words = [f"{heading} {cell}" for heading, cell in zip(_HEADINGS, cells, strict=True)]
            note(", ".join(words + ([] if share is None else [f"{share:.0%} over"])))
            at = progress.elapsed + _LINE_S
        self._next = current, at


def _cells(repeat: int, repeats: int, progress: Progress) -> list[str]:
    speed = progress.tokens / progress.elapsed if progress.elapsed > 0 else 0.0
    return [
        f"{repeat + 1}/{repeats}",
        f"{max(progress.elapsed, 0.0):.0f} s",
        str(progress.sent),
        str(progress.in_flight),
        str(progress.finished),
        str(progress.failed),
        f"{speed:.0f}",
        "-" if progress.ttft is None else f"{progress.ttft * 1e3:.0f} ms",
    ]


@contextmanager
def once_interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt the first time; the second time they do what they do by default."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with _first_signal(interrupt):
        yield


@contextmanager
def finished_first() -> Iterator[None]:
    """What was measured is written down before Ctrl-C ends the command; a second Ctrl-C doesn't wait for it."""
    asked = False

    def wait() -> None:
        nonlocal asked
        asked = True
        note("What was measured is being kept; Ctrl-C again ends it without.")

    with _first_signal(wait):
        yield
    if asked:
        raise KeyboardInterrupt


@contextmanager
def _first_signal(answer: Callable[[], None]) -> Iterator[None]:
    """Meanwhile the first SIGINT or SIGTERM is answered so; a second one does what it does by default."""
    both = (signal.SIGINT, signal.SIGTERM)

    def handle(_number: int, _frame: FrameType | None) -> None:
        for number in both:
            signal.signal(number, signal.SIG_DFL)
        answer()

    before = [signal.signal(number, handle) for number in both]
    try:
        yield
    finally:
        for number, handler in zip(both, before, strict=True):
            signal.signal(number, handler)
