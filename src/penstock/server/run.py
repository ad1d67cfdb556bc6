"""From settings to a running server, and back to nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
import time
from typing import TYPE_CHECKING

import penstock
from penstock.core.sizes import format_size
from penstock.engine.client import EngineClient
from penstock.server.app import build_app
from penstock.server.http1 import Http1Protocol
from penstock.server.listen import Listener
from penstock.server.observe import Observer
from penstock.server.registry import ModelRegistry
from penstock.server.uvicorn_parts import Config, Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp

    from penstock.engine.config import EngineConfig, EngineInfo
    from penstock.engine.spawn import CoreProcess
    from penstock.models.spec import ModelSpec
    from penstock.server.settings import ServerSettings

log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
LAST_WORDS_SECONDS = 2  # for answers to leave once the engine has finished


async def serve(engine_config: EngineConfig, settings: ServerSettings, core: CoreProcess | None = None) -> None:
    """Serve until a signal comes.

    The first SIGTERM or SIGINT drains: new requests get a 503, running ones `settings.drain_timeout` seconds, then
    everything stops. The second stops at once.

    Args:
        engine_config: the model and the engine's limits.
        settings: where to listen, and for whom.
        core: a core that is loading `engine_config` already.

    Raises:
        ConfigError: the address can't be had or would need a key, or the engine's settings are wrong.
        ModelFileError: the model can't be loaded.
    """
    began = time.monotonic()
    _configure_logging(settings)
    settings.check_exposure()
    listener = Listener(settings)
    engine = EngineClient(engine_config, core)
    observer = Observer()
    models = ModelRegistry(observer)
    stop = _StopSignals()
    try:
        with stop.watched():
            starting = asyncio.create_task(engine.start())
            if not await stop.or_done(starting):
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
                return
            starting.result()
            models.add(engine, settings.served_model_name or engine.spec.name, settings.aliases)
            server = HttpServer(build_app(models, settings, observer), settings)
            serving = asyncio.create_task(server.serve(sockets=listener.sockets))
            if await _first_of(serving, server.listening):
                serving.result()
                return
            gc.freeze()  # what is there now stays to the end: no collection need look at it again
            gc.enable()
            for line in start_up_lines(engine.spec, engine.info, settings, listener.url, time.monotonic() - began):
                _say(line)
            if await stop.or_done(serving):
                serving.result()
                return
            await _drain(engine, settings, stop)
            await models.close()
            server.should_exit = True
            await serving
            _say("Stopped.")
    finally:
        await engine.close()
        listener.close()


def start_up_lines(
    spec: ModelSpec, info: EngineInfo, settings: ServerSettings, url: str, seconds: float
) -> Iterator[str]:
    """What a person wants to know of a server that has just started."""
    runner = info.runner
    verified = runner.get("verified", "unknown")
    path = "verified" if verified == "yes" else f"unverified ({verified})"
    weights = f"{spec.quantization} made {runner['quantization']}" if "quantization" in runner else spec.quantization
    yield f"Penstock {penstock.__version__} serves {settings.served_model_name or spec.name}"
    yield (
        f"  model      {spec.architecture}, {spec.parameters / 1e6:.1f} M parameters, {weights}, "
        f"{format_size(info.weight_bytes)} in memory"
    )
    yield (
        f"  device     {runner.get('device', '?')}, {runner.get('dtype', '?')}, attention "
        f"{runner.get('attention', '?')}, {path}"
    )
    yield (
        f"  capacity   {info.kv_tokens} tokens, {info.kv_tokens // info.max_model_len} requests of "
        f"{info.max_model_len}, KV cache of {format_size(info.kv_bytes)}"
    )
    yield f"  address    {url}" + ("" if settings.uds else "  (API under /v1, chat page at /)")
    yield f"  ready      after {seconds:.1f} s"


class HttpServer(Server):  # type: ignore[misc]  # uvicorn is not followed by the type checker
    """uvicorn without its own signal handlers, which know nothing of an engine to drain."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        config = Config(
            app,
            http=Http1Protocol,
            ws="none",
            log_config=None,
            access_log=settings.access_log,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=settings.max_header_bytes,
            timeout_graceful_shutdown=LAST_WORDS_SECONDS,
            timeout_keep_alive=65,  # longer than common proxies keep idle connections, so that they close first
        )
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[object] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _StopSignals:
    """Counts the signals that ask for an end."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._count)
        try:
            yield
        finally:
            for number in STOP_SIGNALS:
                loop.remove_signal_handler(number)

    def _count(self) -> None:
        (self.second if self.first.is_set() else self.first).set()

    async def or_done(self, task: asyncio.Task[None]) -> bool:
        """Wait for the first signal or the task's end; whether it was the task."""
        return await _first_of(task, self.first)


async def _drain(engine: EngineClient, settings: ServerSettings, stop: _StopSignals) -> None:
    running = engine.stats.running + engine.stats.waiting
    _say(f"Stopping: {running} requests in flight get up to {settings.drain_timeout:g} s. Once more stops at once.")
    draining = asyncio.create_task(engine.drain(settings.drain_timeout))
    if not await _first_of(draining, stop.second):
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)
    elif not draining.result():
        log.warning("requests were still running after %g s and are cut off", settings.drain_timeout)


async def _first_of(task: asyncio.Task[bool] | asyncio.Task[None], event: asyncio.Event) -> bool:
    """Wait for either; whether the task ended."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    return task.done()


def _configure_logging(settings: ServerSettings) -> None:
    """Lines to standard error, so that standard output stays free; nothing if the program has its own set-up."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=settings.log_level.upper())
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # the start-up lines say it better


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
