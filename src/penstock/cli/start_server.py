"""What `penstock serve` does once its command line is read."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.cli.output import PullBar, note
from penstock.engine.spawn import CoreProcess

if TYPE_CHECKING:
    from collections.abc import Mapping


def start_server(model: str | None, *, offline: bool, engine: Mapping[str, Any], server: Mapping[str, Any]) -> None:
    """Serve until a signal comes.

    Args:
        model: as given; None leaves it to the settings.
        offline: never use the network.
        engine: the engine's flags that were given, by setting.
        server: the server's.

    Raises what `penstock.server.run.serve` does, and what a model can't be resolved with.
    """
    gc.disable()  # nothing that a start makes is garbage soon; `serve` enables it once it listens
    try:
        with CoreProcess() as core:  # imports what it needs while this process imports its own
            _serve(core, model, offline=offline, engine=engine, server=server)
    finally:
        gc.enable()


def _serve(
    core: CoreProcess, model: str | None, *, offline: bool, engine: Mapping[str, Any], server: Mapping[str, Any]
) -> None:
    from penstock.core.settings import unknown_variables
    from penstock.engine.settings import EngineSettings
    from penstock.models.encoder_files import is_encoder
    from penstock.models.store import resolve
    from penstock.server.declared import DeclaredModel, ModelSettings
    from penstock.server.ensembles.declared import read_ensembles
    from penstock.server.settings import ServerSettings

    settings = ServerSettings.load(**server)
    settings.check_exposure()
    for sentence in unknown_variables(EngineSettings, ServerSettings):
        note(f"penstock: {sentence}")

    def declare() -> list[DeclaredModel]:
        """The model of the command line, if there is one or no other, and those of the settings file."""
        given = EngineSettings.given(model=model, **engine)
        first = EngineSettings(**given)
        others = ModelSettings.all_of(first, settings, after_another="model" in given)
        with PullBar() as bar:

            def find(named: str) -> Path:
                return resolve(named, offline=offline or None, progress=bar)

            declared = []
            if "model" in given or not others:
                named = settings
                if settings.served_model_name is None and not Path(first.model).expanduser().exists():
                    named = replace(settings, served_model_name=first.model)
                declared.append(DeclaredModel.of(first.config(find), named))
            return declared + [other.declared(find) for other in others]

    read_ensembles()  # a mistake is told before a model is fetched
    models = declare()
    takes_core = models[0].preload and not is_encoder(Path(models[0].config.model_path))
    if takes_core:
        core.load(models[0].config)  # loads the model while this process imports the server
    else:
        core.discard()

    import asyncio

    from penstock.server.run import serve

    served_core = core if takes_core else None
    asyncio.run(serve(models, settings, core=served_core, declare=declare, declare_ensembles=read_ensembles))
