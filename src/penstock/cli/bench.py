"""`penstock bench`: load on any endpoint, and what it takes of it."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 (Typer reads annotations when it runs)
from typing import Annotated, Any

import typer

from penstock.cli import (
    bench_compare,
    bench_compile_study,
    bench_engines,
    bench_import,
    bench_stub,
    bench_sweep,
    bench_tune,
    bench_workloads,
)
from penstock.cli.bench_flags import ENDPOINT, JUDGEMENT, LOAD, SPREAD, WORKLOAD
from penstock.cli.bench_pages import report, write_beside
from penstock.cli.help import HeadedCommand, help_alone
from penstock.cli.options import takes
from penstock.cli.output import note, say_json

app = typer.Typer(callback=help_alone, invoke_without_command=True, help="Measure what an endpoint can take.")
app.command("workloads", cls=HeadedCommand)(bench_workloads.workloads)
app.add_typer(bench_workloads.app, name="workload")
app.command("compare", cls=HeadedCommand)(bench_compare.compare)
app.command("compile-study", cls=HeadedCommand)(bench_compile_study.compile_study)
app.add_typer(bench_engines.app, name="engines")


@takes(endpoint=ENDPOINT, workload=WORKLOAD, load=LOAD, spread=SPREAD, judgement=JUDGEMENT)
def run(
    url: Annotated[
        str | None, typer.Argument(help="Where the server is. [default: http://127.0.0.1:8000]", show_default=False)
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A TOML file; its table [bench] is read.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The folder to keep the record and its page in.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
    *,
    endpoint: dict[str, Any],
    workload: dict[str, Any],
    load: dict[str, Any],
    spread: dict[str, Any],
    judgement: dict[str, Any],
) -> None:
    """Offer load to an endpoint and show what came back.

    Without options: four requests at a time for ten seconds, three times.

    Exit codes: 0 measured; 20 every request failed; 21 invalid, as the client was late or short of CPU; 130 cut by
    Ctrl-C, with what was measured until then; and those of wrong options and of endpoints that aren't there.

    Examples:

    \b
      penstock bench run
      penstock bench run http://gpu-box:8000 --rate 8 --duration 60 --slo ttft:500ms,tpot:50ms
      penstock bench run --concurrency 32 --requests 500 --out measured/
      penstock bench run http://gpu-box:8000 --rate 400 --workers 4 --ray auto
    """
    import json

    from penstock.core.lab_extra import require

    require("The laboratory", "numpy", "markdown_it")
    from penstock.cli.bench_report import exit_code, show
    from penstock.cli.bench_spread import offered_by
    from penstock.cli.bench_watch import finished_first, watching
    from penstock.core.errors import RecordError
    from penstock.lab.bench.folder import prepare
    from penstock.lab.bench.kept import keep
    from penstock.lab.bench.run import measure
    from penstock.lab.bench.scrape import Scraper
    from penstock.lab.bench.settings import BenchSettings
    from penstock.lab.bench.setup import set_up

    settings = BenchSettings.read(config, url=url, out=out, **endpoint, **workload, **load, **spread, **judgement)
    prepare(settings.out)
    setup = set_up(settings)
    scraper = Scraper.find(setup.endpoint, settings.metrics, settings.dcgm)
    seen = watching(setup.repeats, count=setup.count, seconds=setup.seconds, quiet=quiet)
    with offered_by(settings, quiet=quiet) as offering, seen as watch:
        measured = measure(
            setup.endpoint, setup.workload, setup.arrivals, setup.manner,
            count=setup.count, repeats=setup.repeats, slo=setup.slo,
            scraper=scraper, on_progress=watch, offering=offering,
        )  # fmt: skip
    with finished_first():
        unkept: RecordError | None = None
        try:
            path, record = keep(measured, settings, setup, scraper, settings.out)
        except RecordError as error:  # the disk is full: what was measured is shown all the same
            unkept = error
            path, record = keep(measured, settings, setup, scraper, None)
        if as_json:
            say_json(json.loads(record.to_json()))
        else:
            show(measured, record)
        if path is not None:
            note(f"Kept: {path}, page: {write_beside(path)}")
        if unkept is not None:
            raise unkept
    if code := exit_code(measured, record):
        raise typer.Exit(code)


app.command("run", cls=HeadedCommand)(run)
app.command("report", cls=HeadedCommand)(report)
app.command("stub", cls=HeadedCommand)(bench_stub.stub)
app.command("sweep", cls=HeadedCommand)(bench_sweep.sweep)
app.command("tune", cls=HeadedCommand)(bench_tune.tune)
app.command("import", cls=HeadedCommand)(bench_import.import_)
