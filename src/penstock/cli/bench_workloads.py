"""`penstock bench workloads` and `penstock bench workload show`: what can be asked, and what would be."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.help import HeadedCommand, help_alone
from penstock.cli.output import note, printable, say, say_json, table

if TYPE_CHECKING:
    from penstock.lab.bench.workloads.summary import Summary

app = typer.Typer(callback=help_alone, invoke_without_command=True, help="Look at what a workload would send.")

_SHOWN = 160  # characters of the first prompt
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def workloads(
    name: Annotated[str | None, typer.Argument(help="Of this one alone, with its options.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """List the workloads, or the options of one.

    Examples:

    \b
      penstock bench workloads
      penstock bench workloads prefixes
    """
    from penstock.lab.bench.workloads import KINDS, kind_of

    kinds = list(KINDS.values()) if name is None else [kind_of(name)]
    if as_json:
        say_json({"workloads": [_described(kind) for kind in kinds]})
        return
    if name is None:
        table(["WORKLOAD", "WHAT IT ASKS"], [[kind.written, kind.summary] for kind in kinds])
        note("Its options: penstock bench workloads NAME. What it would send: penstock bench workload show NAME.")
        return
    say(f"{kinds[0].written}: {kinds[0].summary}")
    rows = [
        [option.name, _written(option.default), option.help] for option in kinds[0].options if option.name != "path"
    ]
    table(["OPTION", "DEFAULT", "WHAT IT IS"], rows)


@app.command("show", cls=HeadedCommand)
def show(
    workload: Annotated[str, typer.Argument(help="NAME[:FILE][?OPTION=VALUE&...], as for penstock bench run.")],
    count: Annotated[int, typer.Option("--count", min=1, max=1_000_000, help="Requests to look at.")] = 1000,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="A model's name, GGUF or tokenizer.json.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of all that is random.")] = 0,
    as_json: Json = False,
) -> None:
    """Show the lengths, times and shared beginnings of what a workload would send. Nothing is sent.

    Examples:

    \b
      penstock bench workload show "synthetic?input_tokens=p50=100,p90=400,max=2000"
      penstock bench workload show "mooncake:trace.jsonl.gz?from=0&to=600"
    """
    from penstock.lab.bench.workloads import make, parse_workload
    from penstock.lab.bench.workloads.summary import summarize
    from penstock.lab.bench.workloads.wordlist import load_tokenizer

    name, options = parse_workload(workload)
    if "path" in options and sys.stderr.isatty():
        note(f"Reading {options['path']} ...")
    made = make(name, options, seed, None if tokenizer is None else load_tokenizer(tokenizer))
    summary = summarize(made, count)
    if as_json:
        say_json({"workload": made.name, "seed": seed, "parameters": made.describe(), **summary.as_dict()})
        return
    _print(made.describe(), summary)


def _print(parameters: dict[str, Any], summary: Summary) -> None:
    say(", ".join(f"{name}={value}" for name, value in parameters.items() if value not in (None, [], "")))
    rows = [
        [
            name,
            *(f"{value:,.4g}" if value < 1000 else f"{value:,.0f}" for value in (s.mean, s.p50, s.p90, s.p99, s.max)),
        ]
        for name, s in summary.spreads.items()
    ]
    table([f"OF {summary.requests} REQUESTS", "MEAN", "P50", "P90", "P99", "MAX"], rows)
    if summary.rate is not None and summary.burstiness is not None:
        say(f"Arrivals: {summary.rate:.4g} requests/s, burstiness {summary.burstiness:.3g} (1 is Poisson).")
    say(f"A prefix cache without limit would find {100 * summary.prefix_hits:.1f} % of these prompts' tokens.")
    prompt = summary.first.prompt
    text = prompt if isinstance(prompt, str) else str(prompt)
    say(f"The first: {printable(text[:_SHOWN])}{' ...' if len(text) > _SHOWN else ''}")


def _described(kind: Any) -> dict[str, Any]:
    options = [{"name": one.name, "default": one.default, "help": one.help} for one in kind.options]
    return {"name": kind.name, "summary": kind.summary, "file": kind.takes_path, "options": options}


def _written(default: Any) -> str:
    if default is None:
        return ""
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"{default:g}" if isinstance(default, float) else str(default)
