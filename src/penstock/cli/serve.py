"""`penstock serve`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from penstock.cli.flags import SERVED_ENGINE, SERVER
from penstock.cli.options import complete_models, takes

Model = Annotated[
    str | None,
    typer.Argument(
        help="A short name (smollm2), a path to a GGUF file or a model directory, or hf:owner/name with :Q4_K_M "
        "after it to choose a quantization. [default: smollm2]",
        autocompletion=complete_models,
    ),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Never use the network; the model must be on this machine already.")
]


@takes(engine=SERVED_ENGINE, server=SERVER)
def serve(model: Model = None, *, offline: Offline = False, engine: dict[str, Any], server: dict[str, Any]) -> None:
    """Serve a model over the API that OpenAI clients speak.

    There is a chat page at /. The model is fetched first if it isn't here yet. Ctrl-C lets running requests finish.

    Every option can also stand in penstock.toml or be an environment variable: --max-num-seqs 64 is
    PENSTOCK_MAX_NUM_SEQS=64.

    Examples:

    \b
      penstock serve
      penstock serve ./model.gguf --port 9000
      penstock serve hf:owner/name:Q4_K_M --alias gpt-3.5-turbo
    """
    from penstock.cli.start_server import start_server

    start_server(model, offline=offline, engine=engine, server=server)
