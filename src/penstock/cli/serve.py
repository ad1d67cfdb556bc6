"""`penstock serve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.flags import ENGINE, SERVER, complete_models, takes
from penstock.cli.output import PullBar, note

if TYPE_CHECKING:
    from penstock.engine.spawn import CoreProcess

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


@takes(engine=ENGINE, server=SERVER)
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
    from penstock.engine.spawn import CoreProcess

    with CoreProcess() as core:  # imports what it needs while this process imports its own
        _serve(core, model, offline=offline, engine=engine, server=server)


def _serve(
    core: CoreProcess, model: str | None, *, offline: bool, engine: dict[str, Any], server: dict[str, Any]
) -> None:
    import asyncio

    from penstock.core.settings import unknown_variables
    from penstock.engine.settings import EngineSettings
    from penstock.models.store import resolve
    from penstock.server.run import serve as run
    from penstock.server.settings import ServerSettings

    engine_settings = EngineSettings.load(model=model, **engine)
    named = engine_settings.model
    settings = ServerSettings.load(**server)
    settings.check_exposure()
    for sentence in unknown_variables(EngineSettings, ServerSettings):
        note(f"penstock: {sentence}")
    with PullBar() as bar:
        path = resolve(named, offline=offline or None, progress=bar)
    if settings.served_model_name is None and not Path(named).expanduser().exists():
        settings = ServerSettings.load(**server, served_model_name=named)
    asyncio.run(run(engine_settings.config(path), settings, core))
