"""An ASGI application behind a real uvicorn on a free port of the loopback interface, for clients that block.

The server runs in a thread of its own with its own event loop; `Live.call` does things there.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import uvicorn
from anyio.from_thread import BlockingPortal, start_blocking_portal

from penstock.engine.client import EngineClient
from penstock.engine.config import EngineConfig
from support.listening import listening

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator
    from pathlib import Path

    from starlette.types import ASGIApp

T = TypeVar("T")
PATIENCE = 30.0  # seconds, to start and to stop


@dataclass(frozen=True)
class Live:
    """A running server: its base URL without a slash at the end, and a way into its thread."""

    url: str
    _portal: BlockingPortal

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """What `function` returns when called in the server's thread."""
        return self._portal.call(function, *arguments)


@contextmanager
def serve(app: ASGIApp, *, port: int = 0) -> Iterator[Live]:
    """Serve any application; `port` is for one that comes back where it was."""
    with (
        start_blocking_portal(name="live-server") as portal,
        portal.wrap_async_context_manager(_running(app, port)) as url,
    ):
        yield Live(url, portal)


@contextmanager
def serve_engine(engine: EngineClient, **settings: Any) -> Iterator[Live]:
    """Serve Penstock's own application over `engine`, as `penstock serve` does, with these server settings."""
    with (
        start_blocking_portal(name="live-server") as portal,
        portal.wrap_async_context_manager(listening(engine, **settings)) as url,
    ):
        yield Live(url, portal)


@contextmanager
def serve_model(path: Path, **options: Any) -> Iterator[Live]:
    """Serve the model at `path` by an engine with a core of its own; options are those of EngineConfig."""
    with (
        start_blocking_portal(name="live-server") as portal,
        portal.wrap_async_context_manager(_with_engine(EngineConfig(model_path=str(path), **options))) as url,
    ):
        yield Live(url, portal)


@asynccontextmanager
async def _with_engine(config: EngineConfig) -> AsyncGenerator[str, None]:
    engine = EngineClient(config)
    await engine.start()
    async with listening(engine) as url:
        yield url


class _Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@asynccontextmanager
async def _running(app: ASGIApp, port: int) -> AsyncGenerator[str, None]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        server = _Server(uvicorn.Config(app, log_config=None, ws="none", timeout_graceful_shutdown=1))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await asyncio.wait_for(server.listening.wait(), PATIENCE)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await asyncio.wait_for(serving, PATIENCE)
