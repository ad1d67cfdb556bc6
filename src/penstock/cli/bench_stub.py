"""`penstock bench stub`: a server with known delays, to try load tests against."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli.output import note, say, say_json


def stub(
    ttft: Annotated[str, typer.Option("--ttft", help="From a slot to the first token.", metavar="TIMES")] = "50ms",
    itl: Annotated[str, typer.Option("--itl", help="Between pieces of text.", metavar="TIMES")] = "10ms",
    tokens: Annotated[
        str | None,
        typer.Option("--tokens", help="Of an answer.  [default: as many as asked for]", metavar="COUNTS"),
    ] = None,
    tokens_per_chunk: Annotated[int, typer.Option("--tokens-per-chunk", help="Tokens to a piece of text.")] = 1,
    slots: Annotated[
        int | None, typer.Option("--slots", help="Requests served at once; the others wait.  [default: no limit]")
    ] = None,
    stall: Annotated[
        list[str] | None,
        typer.Option(
            "--stall",
            help="When, after the first request, everything stands still, and for how long.",
            metavar="AT:FOR",
        ),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            "--fault",
            help="A share of requests that is answered badly: status=503, cut, malformed, in_stream, hang.",
            metavar="SHARE:FAULT",
        ),
    ] = None,
    no_usage: Annotated[bool, typer.Option("--no-usage", help="Tell no token counts.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of everything random.", min=0)] = 0,
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0: any free one.", min=0, max=65535)] = 8900,
    as_json: Annotated[bool, typer.Option("--json", help="Print where it listens as JSON.")] = False,
) -> None:
    """Serve made-up text with known delays, until Ctrl-C.

    It speaks OpenAI's completions and chat, has /metrics under vLLM's names, and tells at /truth what it saw of each
    request. TIMES are one time (50ms) or a distribution: uniform:10ms,90ms, exponential:50ms, lognormal:50ms,0.5
    (median, sigma), pareto:20ms,1.5 (smallest, exponent). COUNTS likewise, without units.

    Exit codes: 0 ended by Ctrl-C; 2 an option that makes no sense, or an address that can't be listened on.

    Examples:

    \b
      penstock bench stub
      penstock bench stub --ttft lognormal:80ms,0.5 --itl 20ms --slots 16
      penstock bench stub --stall 10s:2s --fault 0.01:status=503 --fault 0.01:cut
    """
    import signal
    import sys

    from penstock.lab.bench.stub import Stub

    ended = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ended)  # before there is a thread that could take them
    with Stub(
        ttft=ttft, itl=itl, tokens=tokens, tokens_per_chunk=tokens_per_chunk, slots=slots, stalls=stall or (),
        faults=fault or (), usage=not no_usage, seed=seed, host=host, port=port,
    ) as running:  # fmt: skip
        say_json({"url": running.url}) if as_json else say(running.url)
        sys.stdout.flush()
        note("Serving with known delays; Ctrl-C ends it.")
        signal.sigwait(ended)
