"""A server over a fake generator and real encoders, for a whole module of tests."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from anyio.from_thread import start_blocking_portal

from penstock.engine.config import EngineConfig
from penstock.server.app import build_app
from penstock.server.declared import DeclaredModel
from penstock.server.engines import make_engine
from penstock.server.listen import Listener
from penstock.server.observe import Observer
from penstock.server.registry import ModelRegistry
from penstock.server.run import HttpServer
from penstock.server.settings import ServerSettings
from support.fake_engine import FakeEngine
from support.live_server import Live

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
    from pathlib import Path

    from penstock.server.ensembles.declared import Ensemble
    from penstock.server.model_entry import Engine


@contextmanager
def serving(
    generator: Path,
    encoders: Mapping[str, Path],
    *,
    name: str = "chat",
    ensembles: Sequence[Ensemble] = (),
    **settings: Any,
) -> Iterator[tuple[Live, ModelRegistry]]:
    """Serve these under their names, the generator first; the registry belongs to the server's thread.

    Args:
        generator: what `fake_engine.write_model` wrote.
        encoders: model directories.
        name: of the generator.
        ensembles: of all these; those that are put into a list later count after a refresh.
        settings: the server's.
    """
    with (
        start_blocking_portal(name="live-server") as portal,
        portal.wrap_async_context_manager(_listening(generator, encoders, name, ensembles, settings)) as (
            url,
            registry,
        ),
    ):
        yield Live(url, portal), registry


@asynccontextmanager
async def _listening(
    generator: Path,
    encoders: Mapping[str, Path],
    own: str,
    ensembles: Sequence[Ensemble],
    given: Mapping[str, Any],
) -> AsyncGenerator[tuple[str, ModelRegistry], None]:
    settings = ServerSettings(**{"port": 0, **given})
    observer = Observer()

    def make(config: EngineConfig) -> Engine:
        return FakeEngine(generator) if config.model_path == str(generator) else make_engine(config, [])

    registry = ModelRegistry(observer, make, declare_ensembles=lambda: ensembles)
    listener = Listener(settings)
    await registry.serve(
        [
            DeclaredModel(config=EngineConfig(model_path=str(path), threads=1), name=name)
            for name, path in {own: generator, **encoders}.items()
        ]
    )
    server = HttpServer(build_app(registry, settings, observer), settings)
    task = asyncio.create_task(server.serve(sockets=listener.sockets))
    try:
        await asyncio.wait_for(server.listening.wait(), 20)
        yield listener.url, registry
    finally:
        await registry.close()
        server.should_exit = True
        await asyncio.wait_for(task, 20)
        listener.close()
