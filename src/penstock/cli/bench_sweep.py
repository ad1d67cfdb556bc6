"""`penstock bench sweep`: the highest load that holds."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path  # noqa: TC003 (Typer reads annotations when it runs)
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.bench_flags import ENDPOINT, SPREAD, WORKLOAD
from penstock.cli.flags import Flag, Flags
from penstock.cli.options import takes
from penstock.cli.output import note, say, say_json, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.live import Live

    from penstock.core.errors import PenstockError
    from penstock.core.record import Record
    from penstock.lab.bench.offer import Progress
    from penstock.lab.bench.slo import Slo
    from penstock.lab.bench.sweep import Sweep
    from penstock.lab.bench.tried import Load, Point

_BELIEVED = 0.1  # half the interval, as a share: a wider one is no answer
_HEADINGS = ["LOAD", "VERDICT", "SERVED/S", "WITHIN SLO", "TTFT P50", "TTFT P99", "TPOT P50", "BOUND BY"]

SEARCH = Flags(
    "Search",
    (
        Flag("axis", str, "What grows.", "rate", ("rate", "concurrency")),
        Flag("budget", float, "Seconds it may take in all.", "600"),
        Flag("steps", int, "Points it may try.", "12"),
        Flag("requests", int, "Requests of a point; four times as many where lengths vary much.", "3000"),
        Flag("tolerance", float, "Half the interval to aim at, as a share of the limit.", "0.015"),
        Flag("burstiness", float, "Of arrivals: 0 constant, 1 Poisson, more in bursts.", "1"),
        Flag("max_rate", float, "The highest rate to try, requests/s."),
        Flag("max_concurrency", int, "The most requests at once to try.", "512"),
    ),
)
TARGET = Flags(
    "Judgement",
    (
        Flag("slo", str, "What an answer must meet.", metavar="ttft:500ms,tpot:50ms"),
        Flag("share", float, "The share of requests that must meet it.", "0.99"),
        Flag("metrics", str, "The server's Prometheus page, or off.", "/metrics of the server", metavar="URL"),
        Flag("dcgm", str, "The page of NVIDIA's DCGM exporter.", metavar="URL"),
    ),
)
_SPREAD = Flags(SPREAD.panel, tuple(row for row in SPREAD.rows if row.name != "raw"))  # verdicts are of every request


@takes(endpoint=ENDPOINT, workload=WORKLOAD, effort=SEARCH, spread=_SPREAD, target=TARGET)
def sweep(
    url: Annotated[
        str | None, typer.Argument(help="Where the server is. [default: http://127.0.0.1:8000]", show_default=False)
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A TOML file; its table [bench] is read.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The folder to keep records in.")] = None,
    page: Annotated[Path | None, typer.Option("--page", help="Write an HTML page to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write it as Markdown to this file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the sweep's record as JSON.")] = False,
    *,
    endpoint: dict[str, Any],
    workload: dict[str, Any],
    effort: dict[str, Any],
    spread: dict[str, Any],
    target: dict[str, Any],
) -> None:
    """Find the highest load that an endpoint holds: stable, and within the SLO if there is one.

    Exit codes: 0 found; 20 no load holds, or every request failed; 21 the client was the limit; 22 not found, or not
    to within 10 %; 130 cut by Ctrl-C, with the points until then; and those of wrong options and of endpoints that
    aren't there.

    Examples:

    \b
      penstock bench sweep
      penstock bench sweep http://gpu-box:8000 --slo ttft:500ms,tpot:50ms --page sweep.html
      penstock bench sweep --axis concurrency --budget 120
    """
    from penstock.cli.bench_watch import finished_first
    from penstock.core.lab_extra import require

    require("The laboratory", "numpy")
    from penstock.cli.bench_spread import offered_by
    from penstock.lab.bench.folder import prepare
    from penstock.lab.bench.offer import Manner
    from penstock.lab.bench.points import Trials
    from penstock.lab.bench.records import subject_of
    from penstock.lab.bench.scrape import Scraper
    from penstock.lab.bench.settings import BenchSettings
    from penstock.lab.bench.setup import make_endpoint, make_workload
    from penstock.lab.bench.slo import Slo
    from penstock.lab.bench.sweep import search
    from penstock.lab.bench.sweep_report import page_of
    from penstock.lab.bench.told import what_it_tells

    asked = {name: target[name] for name in ("slo", "metrics", "dcgm") if name in target}
    settings = BenchSettings.read(config, url=url, out=out, **endpoint, **workload, **spread, **asked)
    slo = None if settings.slo is None else Slo.parse(settings.slo, _share(target.get("share", 0.99)))
    burstiness = effort.pop("burstiness", 1.0)
    plan = _plan(effort, None if slo is None else slo.share)
    prepare(settings.out)
    for file, flag in ((page, "page"), (markdown, "markdown")):
        prepare(None if file is None else file.parent, flag)
    asks, _ = make_workload(settings)
    found, notes = make_endpoint(settings, asks)
    told = what_it_tells(found)
    scraper = Scraper.find(found, settings.metrics, settings.dcgm)
    with offered_by(settings, quiet=quiet, columns=True) as offering, _watching(slo, quiet=quiet) as watch:
        trials = Trials(
            endpoint=found, workload=asks, slo=slo, burstiness=burstiness, scraper=scraper, on_progress=watch.tell,
            manner=Manner(timeout=settings.timeout, keep_alive=settings.keep_alive, keep_text=0), offering=offering,
        )  # fmt: skip
        swept = search(plan, trials, watch.point)
    for line in notes:
        note(line)
    if not swept.points:
        raise typer.Exit(_exit_code(swept))
    about: dict[str, Any] = {
        "subject": subject_of(found, told, scraper), "workload": asks, "slo": slo,
        "command": ["penstock", *sys.argv[1:]],
        "parameters": {"settings": settings.describe(), "burstiness": burstiness},
    }  # fmt: skip
    with finished_first():
        path, record, unkept = _kept(swept, settings.out, about)
        if as_json:
            say_json(json.loads(record.to_json()))
        else:
            _show(swept, slo)
        if page is not None or markdown is not None:
            from penstock.lab.pages import render_html, render_markdown
            from penstock.lab.pages.sweep_page import sweep_page

            document = sweep_page(page_of(swept, record, title=f"Sweep of {found.model}", slo=slo))
            for file, text in ((page, render_html.render), (markdown, render_markdown.render)):
                if file is not None:
                    _write(file, text(document))
        if path is not None:
            note(f"Kept: {path}")
        if unkept is not None:
            raise unkept
    if code := _exit_code(swept):
        raise typer.Exit(code)


def _kept(swept: Sweep, folder: Path | None, about: dict[str, Any]) -> tuple[Path | None, Record, PenstockError | None]:
    """Its path and the record; where the disk is full, what was measured is shown all the same, and the error last."""
    from penstock.core.errors import RecordError
    from penstock.lab.bench.sweep_report import keep, record_of

    if folder is None:
        return None, record_of(swept, **about), None
    try:
        return *keep(swept, folder, **about), None
    except RecordError as error:
        return None, record_of(swept, **about), error


def _share(value: float) -> float:
    from penstock.core.errors import InvalidRequestError

    if not 0 < value < 1:
        raise InvalidRequestError(f"A share is between 0 and 1, as 0.99; got {value}.", param="share")
    return value


def _plan(effort: dict[str, Any], target: float | None) -> Any:
    from penstock.core.errors import InvalidRequestError
    from penstock.lab.bench.sweep import Plan

    least = {"budget": 1, "steps": 3, "requests": 125, "tolerance": 0.001, "max_rate": 1e-6, "max_concurrency": 1}
    for name, value in effort.items():
        if name in least and not value >= least[name]:
            flag = "--" + name.replace("_", "-")
            raise InvalidRequestError(f"{flag} is at least {least[name]}; got {value}.", param=name)
    return Plan(target=target, **effort)


def _exit_code(swept: Sweep) -> int:
    from penstock.lab import exits

    if swept.cut:
        return exits.CUT
    limit = swept.limit
    if swept.held and limit is not None and limit.half_width <= _BELIEVED:
        return 0
    if swept.points and (swept.points[-1].disturbed or swept.ended == "the client is the limit"):
        return exits.INVALID
    if not swept.held and limit is not None and not swept.inconclusive:
        return exits.FAILED
    return exits.INCONCLUSIVE


def _write(file: Path, text: str) -> None:
    from penstock.core.errors import ConfigError

    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file} can't be written: {error.strerror}.") from error
    note(f"Written: {file}")


def _show(swept: Sweep, slo: Slo | None) -> None:
    from penstock.lab.bench.sweep_report import bound_of, said

    rows = [_cells(point, slo) for point in swept.points]
    hidden = set() if slo is not None else {_HEADINGS.index("WITHIN SLO")}
    shown = [[cell for i, cell in enumerate(row) if i not in hidden] for row in [_HEADINGS, *rows]]
    table(shown[0], shown[1:])
    say("")
    say(said(swept, slo))
    what, evidence = bound_of(swept)
    if what:
        say(f"Bound by: {what} ({evidence}).")


def _cells(point: Point, slo: Slo | None) -> list[str]:
    import numpy as np

    from penstock.lab.bench.metrics import latencies
    from penstock.lab.bench.stability import Verdict

    load = f"{point.load.value:g} at once" if point.load.closed else f"{point.load.value:.4g}/s"
    ttft = tpot = np.empty(0)
    if point.stability.verdict is Verdict.STABLE and not point.invalid and point.measured is not None:
        found = latencies(point.measured.runs[0])
        ttft, tpot = found.ttft, found.tpot[~np.isnan(found.tpot)]
    share = "" if slo is None or point.share is None else f"{point.share[0]:.1%}"
    bound = "" if point.bound is None or point.bound.what == "nothing" else point.bound.what
    verdict = "INVALID" if point.disturbed else point.stability.verdict.value
    times = [_ms(ttft, 50), _ms(ttft, 99), _ms(tpot, 50)]
    return [load, verdict, f"{point.stability.served:.4g}", share, *times, bound]


def _ms(values: Any, percent: float) -> str:
    import numpy as np

    return f"{np.percentile(values, percent) * 1e3:.1f} ms" if len(values) else ""


@contextmanager
def _watching(slo: Slo | None, *, quiet: bool) -> Iterator[_Watch]:
    from penstock.cli.bench_watch import once_interruptible

    with once_interruptible():
        if quiet or not sys.stderr.isatty():
            yield _Watch(slo, None, quiet=quiet)
        else:
            from rich.console import Console
            from rich.live import Live

            with Live(console=Console(stderr=True), refresh_per_second=8, transient=True) as live:
                yield _Watch(slo, live, quiet=False)


class _Watch:
    """The points so far and the one under way: drawn on a terminal, a line a point elsewhere."""

    def __init__(self, slo: Slo | None, live: Live | None, *, quiet: bool) -> None:
        self._slo = slo
        self._live = live
        self._quiet = quiet
        self._rows: list[list[str]] = []
        self._believed = ""

    def tell(self, load: Load, seconds: float, progress: Progress) -> None:
        if self._live is not None:
            what = f"{load.value:g} at once" if load.closed else f"{load.value:.4g}/s"
            state = (
                f"{what}: {max(progress.elapsed, 0.0):.0f} of {seconds:.0f} s, {progress.finished} answered,"
                f" {progress.in_flight} under way. {self._believed}"
            )
            self._live.update(self._drawn(state))

    def point(self, swept: Sweep) -> None:
        point = swept.points[-1]
        self._rows.append(_cells(point, self._slo))
        if swept.limit is not None:
            limit = swept.limit
            self._believed = f"The limit is now thought to be {limit.low:.4g} to {limit.high:.4g}."
        if self._live is None and not self._quiet:
            note(f"{self._rows[-1][0]}: {self._rows[-1][1]}, {self._rows[-1][2]} answers/s. {self._believed}".rstrip())

    def _drawn(self, state: str) -> Any:
        from rich.table import Table

        drawn = Table(box=None, pad_edge=False, header_style="bold", caption=state)
        for heading in _HEADINGS:
            drawn.add_column(heading, no_wrap=True)
        for row in self._rows:
            drawn.add_row(*row)
        return drawn
