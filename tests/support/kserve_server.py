"""A server of the KServe protocol over an engine in this process, on free ports, for clients that block."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from penstock.server.kserve.grpc_server import GrpcListener
from penstock.server.listen import Listener
from penstock.server.run import HttpServer
from penstock.server.settings import ServerSettings
from support.listening import app_over

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from penstock.engine.client import EngineClient

PATIENCE = 30.0


@dataclass(frozen=True)
class KServeServer:
    """Where it listens, without the scheme, as tritonclient wants it; and a way into its thread."""

    http: str
    grpc: str
    _portal: BlockingPortal

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._portal.call(function, *arguments)


@contextmanager
def kserve_server(engine: EngineClient, **settings: Any) -> Iterator[KServeServer]:
    """Serve `engine` over HTTP and gRPC with these server settings."""
    with (
        start_blocking_portal(name="kserve-server") as portal,
        portal.wrap_async_context_manager(_listening(engine, settings)) as (http, grpc),
    ):
        yield KServeServer(http, grpc, portal)


@asynccontextmanager
async def _listening(engine: EngineClient, settings: dict[str, Any]) -> AsyncGenerator[tuple[str, str], None]:
    given = ServerSettings(**{"port": 0, "grpc_port": 0, **settings})
    app = app_over(engine, given)
    listener, grpc = Listener(given), GrpcListener(given)
    server = HttpServer(app, given)
    serving = asyncio.create_task(server.serve(sockets=listener.sockets))
    try:
        await asyncio.wait_for(server.listening.wait(), PATIENCE)
        await grpc.start(app.state.kserve.kserve, app.state.service.observer)
        yield listener.url.removeprefix("http://"), grpc.url.removeprefix("grpc://")
    finally:
        await app.state.service.models.close()
        server.should_exit = True
        await grpc.stop(1)
        await asyncio.wait_for(serving, PATIENCE)
        listener.close()
