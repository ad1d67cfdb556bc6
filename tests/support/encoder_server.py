"""A server over a fake generator and real encoders, for a whole module of tests."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

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
    from collections.abc import AsyncGenerator, Iterator, Mapping
    from pathlib import Path


@contextmanager
def serving(
    generator: Path, encoders: Mapping[str, Path], *, name: str = "chat"
) -> Iterator[tuple[Live, ModelRegistry]]:
    """Serve these under their names, the generator first; the registry belongs to the server's thread.

    Args:
        generator: what `fake_engine.write_model` wrote.
        encoders: model directories.
        name: of the generator.
    """
    with (
        start_blocking_portal(name="live-server") as portal,
        portal.wrap_async_context_manager(_listening(generator, encoders, name)) as (url, registry),
    ):
        yield Live(url, portal), registry


@asynccontextmanager
async def _listening(
    generator: Path, encoders: Mapping[str, Path], own: str
) -> AsyncGenerator[tuple[str, ModelRegistry], None]:
    settings = ServerSettings(port=0)
    observer = Observer()
    registry = ModelRegistry(observer, lambda config: make_engine(config, []))
    engine = FakeEngine(generator)
    registry.adopt(DeclaredModel(config=engine.config, name=own), engine)
    listener = Listener(settings)
    await registry.serve(
        [
            DeclaredModel(config=EngineConfig(model_path=str(path), threads=1), name=name)
            for name, path in encoders.items()
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
