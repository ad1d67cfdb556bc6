"""`penstock journal matrix`, `compare`, `history`, `rerun`: what Records answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.output import counted, note, say, say_json, table

if TYPE_CHECKING:
    from penstock.lab.journal.compare import Comparison
    from penstock.lab.journal.evidence import Exhibit

Where = Annotated[
    Path | None,
    typer.Option(
        "--journal", help="The journal's folder. [default: the nearest from here upwards]", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Metrics = Annotated[
    list[str] | None, typer.Option("--metric", help="A metric, such as ttft.p99; may be given several times.")
]
RecordPath = Annotated[str, typer.Argument(help="A Record's file, or DAY#NAME for a day's own.")]


def matrix(
    metric: Annotated[str, typer.Option("--metric", help="What the cells show.")] = "output_throughput.p50",
    subject: Annotated[str, typer.Option("--subject", help="Of this one only.")] = "",
    where: Where = None,
    as_json: Json = False,
) -> None:
    """Show what was measured and what wasn't: batch x length, by hardware and quantization; a dot is a hole."""
    from penstock.lab.journal.evidence import Evidence
    from penstock.lab.journal.layout import Journal
    from penstock.lab.journal.matrix import matrix as make

    made = make(Evidence(Journal.find(where)).all, metric, subject)
    if as_json:
        cells = [{**_at(row, column), "value": value} for (row, column), value in made.cells.items()]
        say_json({"metric": metric, "unit": made.unit, "cells": cells, "holes": [_at(*hole) for hole in made.holes]})
        return
    if not made.cells:
        note(f"No Record has {metric}.")
        return
    headings, rows = made.table()
    table(headings, rows)
    note(f"{metric} in {made.unit}; columns are batch x length. {counted(len(made.holes), 'hole')}.")


def compare(
    a: Annotated[list[str], typer.Argument(help="Two Records or folders of them: before, and after.", metavar="A B")],
    metrics: Metrics = None,
    margin: Annotated[float, typer.Option("--margin", help="Changes within it make no difference.", min=0.0001)] = 0.03,
    add: Annotated[bool, typer.Option("--add", help="Keep it as a Record of the journal's.")] = False,
    where: Where = None,
    as_json: Json = False,
) -> None:
    """Say how much changed from A to B, with intervals, and whether the change is real.

    Folders are compared workload by workload, run by run. With --add the ratios become a Record under compare/ in the
    journal's folder of Records, so that logs can quote them. The exit code is 0 whatever changed.
    """
    from penstock.core.errors import InvalidRequestError
    from penstock.core.lab_extra import require
    from penstock.lab.journal.compare import compare as hold

    require("Comparing Records", "numpy")
    if len(a) != 2:
        raise InvalidRequestError(f"A comparison is of two Records or folders; got {len(a)}.", param="A B")
    first, second = (_exhibits(each, where) for each in a)
    found = hold(first, second, metrics or (), margin)
    kept: list[str] = []
    if add:
        from penstock.lab.journal.compared import keep
        from penstock.lab.journal.layout import Journal

        journal = Journal.find(where)
        options = (part for each in metrics or () for part in ("--metric", each))
        asked = ("penstock", "journal", "compare", *a, *options, "--margin", f"{margin:g}")
        kept = [journal.shown(path) for path in keep(journal, (a[0], a[1]), found, asked)]
    if as_json:
        say_json({**_comparison(found), "kept": kept})
        return
    _show(found)
    if kept:
        note(f"Kept: {', '.join(kept)}")


def history(
    metric: Annotated[str, typer.Argument(help="A metric, such as output_throughput or ttft.p99.")],
    subject: Annotated[str, typer.Option("--subject", help="Of this one only.")] = "",
    workload: Annotated[str, typer.Option("--workload", help="Under this one only.")] = "",
    out: Annotated[Path | None, typer.Option("--out", help="A folder to draw the trends into, as SVG.")] = None,
    where: Where = None,
    as_json: Json = False,
) -> None:
    """Follow a metric over commits on the same hardware, and tell where it stepped.

    Versions of Records that only git still has count too.
    """
    from penstock.lab.journal.entries import write_whole
    from penstock.lab.journal.evidence import Evidence
    from penstock.lab.journal.fields import written
    from penstock.lab.journal.history import history as follow
    from penstock.lab.journal.layout import Journal, topic_slug

    trends = follow(Evidence(Journal.find(where)), metric, subject=subject, workload=workload)
    if out is not None:
        for trend in trends:
            name = topic_slug(f"{metric} {trend.subject} {trend.workload}"[:50] + f" {trend.hardware}")
            write_whole(out / f"{name}.svg", trend.svg(metric))
    if as_json:
        say_json({"metric": metric, "trends": [_trend(trend) for trend in trends]})
        return
    for trend in trends:
        say(f"{trend.subject}, {trend.workload}, on {trend.machine} ({trend.hardware}), {trend.unit}:")
        steps = {step.index: step for step in trend.steps}
        for at, moment in enumerate(trend.moments):
            if step := steps.get(at):
                change = step.after / step.before - 1 if step.before else 0.0
                say(f"    step: {written(step.before)} to {written(step.after)} ({change:+.1%}, p = {step.p:.3f})")
            dirty = " dirty" if moment.dirty else ""
            say(f"  {moment.created:%Y-%m-%d}  {moment.commit[:9] or 'no commit'}{dirty}  {written(moment.value)}")


def rerun(
    record: RecordPath,
    out: Annotated[Path | None, typer.Option("--out", help="A folder to keep the new Record in.")] = None,
    metrics: Metrics = None,
    where: Where = None,
    as_json: Json = False,
) -> None:
    """Run a Record's command again and say whether its figures come out the same.

    Exit codes: 0 reproduced, within 10 %; 20 changed; 22 inconclusive, as runs differ too much to tell.
    """
    import shlex

    from penstock.core.errors import NotFoundError
    from penstock.core.lab_extra import require
    from penstock.lab import exits
    from penstock.lab.journal.layout import Journal
    from penstock.lab.journal.rerun import rerun as again

    require("Comparing Records", "numpy")
    exhibits = _exhibits(record, where)
    if len(exhibits) != 1:
        raise NotFoundError(f"{record} is {len(exhibits)} Records; name one.", param="record")
    note(f"Running {shlex.join(exhibits[0].record.command)}")
    try:
        folder = Journal.find(where).root.parent
    except NotFoundError:
        folder = Path.cwd()
    done = again(exhibits[0], folder, out=out, metrics=metrics or ())
    if as_json:
        say_json({"outcome": done.outcome, **_comparison(done.comparison)})
    else:
        _show(done.comparison)
        say(done.outcome)
        if out is None:
            note("The new Record isn't kept: --out DIR keeps it.")
    if code := {"changed": exits.FAILED, "inconclusive": exits.INCONCLUSIVE}.get(done.outcome, 0):
        raise typer.Exit(code)


def _exhibits(name: str, where: Path | None) -> list[Exhibit]:
    """Of a file, of a folder, or of a day: DAY, or DAY#NAME. Raises NotFoundError if it is none of these."""
    from penstock.core.errors import NotFoundError, RecordError
    from penstock.core.record import Record
    from penstock.lab.journal.evidence import Evidence, Exhibit, records_below
    from penstock.lab.journal.layout import Journal

    path = Path(name)
    if path.is_file():
        return [Exhibit(Record.load(path), path, path.stem)]
    if path.is_dir() and not (path / "metrics.json").exists():
        return records_below(path)
    journal = Journal.find(where)
    day, _, one = name.partition("#")
    evidence = Evidence(journal)
    exhibits = evidence.of_days[journal.day(day)]
    for problem in evidence.problems:
        if problem.where.startswith(journal.shown(journal.day(day).folder)):
            raise RecordError(str(problem))
    found = [exhibit for exhibit in exhibits if not one or exhibit.name == one]
    if not found:
        names = ", ".join(exhibit.name for exhibit in exhibits) or "none"
        what = f"no Record {one!r}; it has {names}" if one else "no Records: penstock journal add"
        raise NotFoundError(f"{day} has {what}.", param="record")
    return found


def _show(comparison: Comparison) -> None:
    from penstock.lab.journal.fields import written

    rows = []
    for change in comparison.changes:
        interval = "" if change.low is None or change.high is None else f"{change.low:.3f} to {change.high:.3f}"
        rows.append([
            change.workload, f"{change.metric}, {change.unit}", written(change.a), written(change.b),
            f"{change.ratio:.3f}", interval, str(change.verdict), change.basis,
        ])  # fmt: skip
    table(["WORKLOAD", "METRIC", "A", "B", "B / A", "95 %", "B IS", "FROM"], rows)
    for warning in comparison.warnings:
        note(warning)


def _comparison(comparison: Comparison) -> dict[str, Any]:
    changes = [
        {
            "workload": c.workload, "metric": c.metric, "unit": c.unit, "a": c.a, "b": c.b, "ratio": c.ratio,
            "low": c.low, "high": c.high, "verdict": str(c.verdict), "real": c.real, "basis": c.basis,
        }
        for c in comparison.changes
    ]  # fmt: skip
    return {"changes": changes, "warnings": list(comparison.warnings)}


def _trend(trend: Any) -> dict[str, Any]:
    return {
        "subject": trend.subject, "workload": trend.workload, "machine": trend.machine, "hardware": trend.hardware,
        "unit": trend.unit,
        "moments": [
            {"commit": m.commit, "dirty": m.dirty, "created": m.created.isoformat(), "value": m.value,
             "software": m.software}
            for m in trend.moments
        ],
        "steps": [{"index": s.index, "before": s.before, "after": s.after, "p": s.p} for s in trend.steps],
    }  # fmt: skip


def _at(row: tuple[str, str, str], column: tuple[str, str]) -> dict[str, str]:
    return dict(zip(("hardware", "subject", "quantization", "batch", "length"), (*row, *column), strict=True))
