"""An application behind the server's own uvicorn, in the test's event loop."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx

from penstock.engine.client import EngineClient
from penstock.server.app import build_app
from penstock.server.declared import DeclaredModel
from penstock.server.listen import Listener
from penstock.server.observe import Observer
from penstock.server.registry import ModelRegistry
from penstock.server.run import HttpServer
from penstock.server.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from typing import Any

    from starlette.applications import Starlette


def app_over(engine: EngineClient, settings: ServerSettings) -> Starlette:
    """The application over one engine, as `penstock serve` makes it."""
    observer = Observer()
    models = ModelRegistry(observer, EngineClient)
    models.adopt(DeclaredModel.of(engine.config, settings), engine)
    return build_app(models, settings, observer)


@asynccontextmanager
async def listening(engine: EngineClient, **settings: Any) -> AsyncGenerator[str, None]:
    """Serve `engine` on a free port; gives the base URL. What is still running at the end is cut."""
    given = ServerSettings(**{"port": 0, **settings})
    listener = Listener(given)
    server = HttpServer(app_over(engine, given), given)
    serving = asyncio.create_task(server.serve(sockets=listener.sockets))
    try:
        await asyncio.wait_for(server.listening.wait(), 10)
        yield listener.url
    finally:
        await engine.close()
        server.should_exit = True
        await asyncio.wait_for(serving, 10)
        listener.close()


@asynccontextmanager
async def client_of(engine: EngineClient, **settings: Any) -> AsyncGenerator[httpx.AsyncClient, None]:
    """An HTTP client of `engine` served on a free port."""
    async with listening(engine, **settings) as url, httpx.AsyncClient(base_url=url, timeout=20) as client:
        yield client
