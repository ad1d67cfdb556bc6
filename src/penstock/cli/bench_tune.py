"""`penstock bench tune`: the engine's settings for a load."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.bench_flags import LOAD, WORKLOAD
from penstock.cli.flags import Flag, Flags
from penstock.cli.options import takes
from penstock.cli.output import note, say, say_json, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from penstock.lab.bench.endpoint import Api
    from penstock.lab.bench.offer import Progress
    from penstock.lab.bench.tune.evidence import Kept
    from penstock.lab.bench.tune.settings import Asked

OWN = Flags(
    "Tuning",
    (
        Flag("preset", str, "A load of a common kind, instead of a --workload.", "chat",
             ("chat", "documents", "one-stream"), "--for"),
        Flag("objective", str, "What is to be better.", "throughput",
             ("throughput", "goodput", "ttft-p50", "ttft-p99", "tpot-p50", "tpot-p99", "e2e-p50", "e2e-p99", "cost")),
        Flag("price_per_hour", float, "Of the machine, for the cost of a million output tokens."),
        Flag("budget", float, "Minutes, the verdict included.", "8"),
        Flag("trials", int, "Most combinations to try.", "60"),
        Flag("patience", int, "Trials without a gain after which to end.", "12"),
        Flag("rounds", int, "How often the winner and the defaults are measured for the verdict.", "8"),
        Flag("margin", float, "A gain that makes no difference.", "0.03"),
        Flag("fixed", list[str], "An engine setting that is the same in every trial; may be repeated.",
             option="--set", metavar="NAME=VALUE"),
        Flag("allow_lossy", bool, "Also try what changes the model's answers: the KV cache's number format.", "no"),
    ),
)  # fmt: skip
ASKING = Flags(
    "Asking",
    (
        Flag("api", str, "What the server is asked by.", "chat where the workload is", ("auto", "chat", "completions")),
        Flag("body", str, "Fields merged into every request's body.", metavar="JSON"),
        Flag("slo", str, "What an answer must meet to count as goodput.", metavar="ttft:500ms,tpot:50ms"),
        Flag("timeout", float, "Seconds until a request has failed.", "600"),
    ),
)
_LOAD = Flags(LOAD.panel, tuple(row for row in LOAD.rows if row.name != "repeats"))


@takes(own=OWN, workload=WORKLOAD, load=_LOAD, asking=ASKING)
def tune(
    model: Annotated[
        str | None, typer.Argument(help="A name or a path, as for penstock serve. [default: smollm2]")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="A TOML file with [tune], [tune.space], [tune.set] and [bench].")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder to keep everything in. [default: tuned]")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study in that folder.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    *,
    own: dict[str, Any],
    workload: dict[str, Any],
    load: dict[str, Any],
    asking: dict[str, Any],
) -> None:
    """Search the engine's settings for those that serve a load best, and write them into penstock.toml.

    A server is started for each run. What wins is measured again beside the defaults, with requests that no trial had;
    the file says by how much it is better, or that the defaults are as good.

    Exit codes: 0 a verdict; 21 none, as the defaults or all else can't be measured; 22 inconclusive; 130 cut by
    Ctrl-C, and --resume goes on; and those of wrong options.

    Examples:

    \b
      penstock bench tune --for chat
      penstock bench tune --for documents --objective ttft-p99 --rate 0.5 --duration 20 --budget 20
      penstock bench tune ./model.gguf --workload jsonl:own.jsonl --concurrency 16 --requests 200 --out tuned-own
    """
    from penstock.core.lab_extra import require

    require("Tuning", "numpy", "optuna")
    from penstock.cli.bench_watch import once_interruptible
    from penstock.lab.bench.engines import Place
    from penstock.lab.bench.engines.model import ModelForms
    from penstock.lab.bench.setup import is_chat
    from penstock.lab.bench.tune.evidence import Kept
    from penstock.lab.bench.tune.journal import Journal
    from penstock.lab.bench.tune.objective import Objective
    from penstock.lab.bench.tune.settings import read, with_tokenizer
    from penstock.lab.bench.tune.study import Plan, Study
    from penstock.lab.bench.tune.trying import Trier, Tuned

    asked = read(config, {**own, "model": model, "out": out}, {**asking, **workload, **load})
    folder = asked.tune.out or Path("tuned")
    asked, load_ = with_tokenizer(asked)
    objective = Objective.find(asked.tune.objective, slo=load_.slo, price=asked.tune.price_per_hour)
    place = Place.default()
    forms = ModelForms.find(asked.tune.model, place, note)
    journal = Journal(folder, _identity(asked), resume=resume)
    plan = Plan(
        budget=60 * asked.tune.budget, trials=asked.tune.trials, rounds=asked.tune.rounds, margin=asked.tune.margin
    )
    api: Api = "chat" if asked.bench.api == "chat" or is_chat(load_.workload) else "completions"
    with once_interruptible(), _watching(quiet=quiet) as (line, progress):
        trier = Trier(
            load_, objective, forms, place, fixed=asked.space.fixed, api=api, body=asked.bench.body,
            on_progress=progress,
        )  # fmt: skip
        found = Study(
            asked.space, objective, plan, trier.run, journal, seed=asked.bench.seed, patience=asked.tune.patience,
            say=line,
        ).run()  # fmt: skip
    kept = Kept(asked, found, Tuned().require_installed(place), ["penstock", *sys.argv[1:]])
    written = kept.save(folder)
    _show(kept, as_json=as_json)
    for path in written:
        note(f"Wrote {path}")
    if kept.exit_code:
        raise typer.Exit(kept.exit_code)


def _identity(asked: Asked) -> dict[str, Any]:
    """What must be the same for a study to go on."""
    tune = asked.tune
    return {
        "model": tune.model, "objective": tune.objective, "price": tune.price_per_hour, "load": asked.load,
        "space": asked.space.describe(),
    }  # fmt: skip


@contextmanager
def _watching(*, quiet: bool) -> Iterator[tuple[Callable[[str], None], Callable[[Progress], None]]]:
    """Where a line about each trial goes, and what a run under way tells: a line that keeps changing on a terminal."""
    if quiet:
        yield (lambda _line: None), (lambda _progress: None)
    elif not sys.stderr.isatty():
        yield note, (lambda _progress: None)
    else:
        from rich.console import Console
        from rich.status import Status

        console = Console(stderr=True)
        began = time.monotonic()
        with Status("starting; Ctrl-C ends it, --resume goes on", console=console) as status:

            def progress(seen: Progress) -> None:
                speed = seen.tokens / seen.elapsed if seen.elapsed > 0 else 0.0
                minutes, seconds = divmod(int(time.monotonic() - began), 60)
                status.update(
                    f"{minutes}:{seconds:02} · {seen.finished} of {seen.sent} answered · {speed:.0f} tokens/s"
                )

            yield (lambda line: console.print(line, markup=False, highlight=False)), progress


def _show(kept: Kept, *, as_json: bool) -> None:
    if as_json:
        say_json(kept.as_dict())
        return
    from penstock.lab.bench.tune.space import changes
    from penstock.lab.bench.tune.study import percent

    search = kept.found.search
    rows = []
    for trial in [search.defaults, *search.ranked()[:10]]:
        score = search.score(trial)
        if score is not None:
            mean = sum(figure for _, figure in trial.runs) / len(trial.runs)
            rows.append([str(trial.number), changes(trial.settings), f"{mean:.4g}", percent(score), kept.state(trial)])
    table(["TRIAL", "SETTINGS", kept.found.objective.unit.upper(), "GAIN", ""], rows)
    importance = ", ".join(f"{name} {share:.0%}" for name, share in search.importance().items() if share >= 0.01)
    if importance:
        note(f"What mattered: {importance}")
    for reason in kept.found.invalid:
        note(reason)
    say(kept.said)
