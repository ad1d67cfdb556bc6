"""`penstock bench compile-study`: what compiling the torch runner brings, and when it is paid for."""

from __future__ import annotations

import json
import sys
from pathlib import Path  # noqa: TC003 (Typer reads annotations when it runs)
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.flags import Flag, Flags
from penstock.cli.generate import Model  # noqa: TC001 (Typer reads annotations when it runs)
from penstock.cli.options import takes
from penstock.cli.output import PullBar, note, say, say_json, table
from penstock.cli.serve import Offline  # noqa: TC001 (Typer reads annotations when it runs)

if TYPE_CHECKING:
    from penstock.lab.bench.compile_study.study import Study

STUDY = Flags(
    "Study",
    (
        Flag("modes", str, "Modes beside eager, with commas.", "all that are possible here", metavar="NAMES"),
        Flag("shapes", str, "A size that changes becomes a variable of the code, or decode steps are padded to powers "
             "of two and each size has code of its own.", "automatic", ("automatic", "bucketed")),
        Flag("prefill", str, "Prompts, in tokens, with commas; the shortest is a request's.", "128,512",
             metavar="TOKENS"),
        Flag("batches", str, "Sequences of a decode step, with commas.", "1,8", metavar="COUNTS"),
        Flag("context", int, "Tokens before the first decode step.", "256"),
        Flag("steps", int, "Decode steps that are timed together.", "32"),
        Flag("answer", int, "Tokens of a request's answer, for the break-even.", "128"),
        Flag("rounds", int, "Times that each point is measured in a process.", "8"),
        Flag("passes", int, "Processes of a mode: the first finds empty compiler caches, the others full ones.", "2"),
        Flag("limit", float, "Seconds that a process may take.", "900"),
        Flag("seed", int, "Of the tokens.", "0"),
    ),
)  # fmt: skip
WHERE = Flags(
    "Engine",
    (
        Flag("device", str, "Where the model runs.", "auto", ("auto", "cpu", "cuda", "mps")),
        Flag("dtype", str, "Number format; auto: the fastest.", "auto", ("auto", "float32", "bfloat16", "float16")),
        Flag("threads", int, "CPU threads.", "one for each core"),
        Flag("block_size", int, "Tokens per block of the KV cache.", "16"),
        Flag("allow_unverified", bool, "Run on hardware on which this version was never tested.", "off"),
    ),
)


@takes(asked=STUDY, where=WHERE)
def compile_study(
    model: Model = None,
    out: Annotated[Path | None, typer.Option("--out", help="The folder to keep the record in.")] = None,
    page: Annotated[Path | None, typer.Option("--page", help="Write an HTML page to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write it as Markdown to this file.")] = None,
    offline: Offline = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
    *,
    asked: dict[str, Any],
    where: dict[str, Any],
) -> None:
    """Measure the torch runner under torch.compile's modes and CUDA graphs, and after how many requests they pay.

    Exit codes: 0 measured; 20 no mode beside eager could be; 130 cut by Ctrl-C, with what was measured until then;
    and those of wrong options, of models that aren't there and of a missing compiler.

    Examples:

    \b
      penstock bench compile-study
      penstock bench compile-study --modes default --prefill 128 --batches 1,4 --page compile.html
      penstock bench compile-study --device cuda --allow-unverified --batches 1,8,32 --out measured/
    """
    from penstock.core.lab_extra import require
    from penstock.core.torch_extra import require as require_torch

    require("The laboratory", "numpy")
    require_torch("Compiling", "torch")
    from penstock.cli.bench_watch import once_interruptible
    from penstock.lab.bench.compile_study.planning import plan_of
    from penstock.lab.bench.compile_study.report import keep, record_of
    from penstock.lab.bench.compile_study.study import study
    from penstock.models.store import resolve

    with PullBar() as pull:
        plan = plan_of(
            model or "smollm2", lambda named: resolve(named, offline=offline or None, progress=pull), **asked, **where
        )
    with once_interruptible():
        found = study(plan, (lambda _mode, _what: None) if quiet else _tell)
    if not any(tried.answers for tried in found.modes):
        for tried in found.modes:
            note(f"{tried.mode.name}: {tried.failure}")
        raise typer.Exit(_exit_code(found))
    record = record_of(found, ["penstock", *sys.argv[1:]])
    if as_json:
        say_json(json.loads(record.to_json()))
    else:
        _show(found)
    if page is not None or markdown is not None:
        from penstock.lab.bench.compile_study.page import page_of
        from penstock.lab.pages import render_html, render_markdown

        document = page_of(found, record)
        for file, render in ((page, render_html.render), (markdown, render_markdown.render)):
            if file is not None:
                _write(file, render(document))
    if out is not None:
        note(f"Kept: {keep(record, out)}")
    if code := _exit_code(found):
        raise typer.Exit(code)


def _exit_code(found: Study) -> int:
    from penstock.lab import exits

    if found.cut:
        return exits.CUT
    return 0 if found.eager.answers and any(tried.answers for tried in found.compared) else exits.FAILED


def _write(file: Path, text: str) -> None:
    from penstock.core.errors import InvalidRequestError

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidRequestError(f"The page {file} can't be written: {error.strerror}.") from error
    note(f"Written: {file}")


def _tell(mode: str, what: str) -> None:
    note(f"{mode}: {what}")


def _show(found: Study) -> None:
    from statistics import geometric_mean

    from penstock.lab.bench.compile_study.report import sentences, speedup
    from penstock.lab.bench.compile_study.words import recompiled
    from penstock.lab.pages.units import figure

    points = found.plan.points
    rows = []
    for tried in found.modes:
        if not tried.answers:
            continue
        first = tried.answers[0]
        pays = found.pays(tried, found.plan.batches[-1]) if tried is not found.eager else None
        cells = [tried.mode.name]
        for point in points:
            samples = tried.samples(point)
            ratio = speedup(found, tried, point)
            beside = f" ({figure(ratio.estimate, '1')}x)" if ratio is not None and tried is not found.eager else ""
            cells.append(f"{figure(geometric_mean(samples), 's')}{beside}")
        cells += [
            "" if pays is None else figure(pays.cost.value, "s"),
            str(len(first.compilations)),
            str(len(recompiled(first))),
            str(len(first.breaks)),
            figure(first.memory.peak, "bytes"),
        ]
        rows.append(cells)
    headings = ["MODE", *(point.name.upper().replace("_", " ") for point in points)]
    table([*headings, "COMPILE", "COMPILATIONS", "AGAIN", "BREAKS", "PEAK MEMORY"], rows)
    say("")
    for sentence in sentences(found):
        say(sentence)
