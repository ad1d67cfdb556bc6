"""From settings to a running server, and back to nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import penstock
from penstock.core.errors import ConfigError, PenstockError
from penstock.core.sizes import format_size
from penstock.engine.client import EngineClient
from penstock.server.app import build_app
from penstock.server.engines import make_engine
from penstock.server.http1 import Http1Protocol
from penstock.server.listen import Listener
from penstock.server.observe import Observer
from penstock.server.registry import ModelRegistry
from penstock.server.storage import check_directory
from penstock.server.uvicorn_parts import Config, Server
from penstock.server.websocket_protocol import OVERHEAD_BYTES, websocket_protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence

    from starlette.types import ASGIApp

    from penstock.engine.config import EngineInfo
    from penstock.engine.spawn import CoreProcess
    from penstock.models.spec import ModelSpec
    from penstock.server.declared import DeclaredModel
    from penstock.server.engines import Engine
    from penstock.server.ensembles.declared import Ensemble
    from penstock.server.kserve.grpc_server import GrpcListener
    from penstock.server.model_entry import ModelEntry
    from penstock.server.settings import ServerSettings

log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
SILENT_SECONDS = 3.0  # of loading, before a word about it
LAST_WORDS_SECONDS = 2  # for answers to leave once the engine has finished


async def serve(
    models: Sequence[DeclaredModel],
    settings: ServerSettings,
    *,
    core: CoreProcess | None = None,
    declare: Callable[[], Sequence[DeclaredModel]] | None = None,
    declare_ensembles: Callable[[], Sequence[Ensemble]] = tuple,
) -> None:
    """Serve until a signal comes.

    The first SIGTERM or SIGINT drains: new requests get a 503, running ones `settings.drain_timeout` seconds, then
    everything stops. The second stops at once. SIGHUP serves what is declared by then.

    Args:
        models: what to serve; a request that names none gets the first.
        settings: where to listen, and for whom.
        core: a core that is loading the first model already.
        declare: reads again what is to be served.
        declare_ensembles: reads the ensembles, now and again.

    Raises:
        ConfigError: the address can't be had or would need a key, or an engine's settings are wrong.
        ModelFileError: a model can't be loaded.
    """
    began = time.monotonic()
    _configure_logging(settings)
    settings.check_exposure()
    settings.check_ports()
    if settings.data_dir is not None:
        check_directory(settings.data_dir)
    if settings.lora_dir is not None and not settings.lora_dir.is_dir():
        raise ConfigError(f"--lora-dir: {settings.lora_dir} is not a directory.", param="lora_dir")
    observer = Observer()
    cores = [core] if core is not None else []
    registry = ModelRegistry(observer, lambda config: make_engine(config, cores), declare, declare_ensembles)
    stop = _StopSignals()
    async with _addresses(settings, registry) as (listener, grpc):
        with stop.watched(), _hangups() as hangup:
            if not await _loaded(registry, models, stop):
                return
            app = build_app(registry, settings, observer)
            server = HttpServer(app, settings)
            serving = asyncio.create_task(server.serve(sockets=listener.sockets))
            if await _first_of(serving, server.listening):
                serving.result()
                return
            if grpc is not None:
                await grpc.start(app.state.kserve.kserve, observer)
            gc.freeze()  # what is there now stays to the end: no collection need look at it again
            gc.enable()
            seconds, grpc_url = time.monotonic() - began, None if grpc is None else grpc.url
            for line in start_up_lines(registry.entries, settings, listener.url, seconds, grpc_url, registry.ensembles):
                _say(line)
            with _kept(registry, hangup):
                ended = await stop.or_done(serving)
            if ended:
                serving.result()
                return
            await _drain(registry, settings, stop)
            await registry.close()
            server.should_exit = True
            if grpc is not None:
                await grpc.stop(LAST_WORDS_SECONDS)
            await serving
            _say("Stopped.")


@contextlib.asynccontextmanager
async def _addresses(
    settings: ServerSettings, registry: ModelRegistry
) -> AsyncGenerator[tuple[Listener, GrpcListener | None]]:
    """Takes the ports before a model is loaded, and gives them back once all models are closed."""
    listener = Listener(settings)
    grpc: GrpcListener | None = None
    try:
        grpc = _grpc_listener(settings)
        yield listener, grpc
    finally:
        await registry.close()
        if grpc is not None:
            await grpc.stop(0)
        listener.close()


@contextlib.contextmanager
def telling_of_loading(names: Sequence[str], after: float = SILENT_SECONDS) -> Iterator[None]:
    """Says what is being loaded once that has taken so many seconds: a large model, or another runner's imports."""
    line = f"Loading {', '.join(names)} ..."
    telling = asyncio.get_running_loop().call_later(after, _say, line)
    try:
        yield
    finally:
        telling.cancel()


async def _loaded(registry: ModelRegistry, models: Sequence[DeclaredModel], stop: _StopSignals) -> bool:
    """Load the models; False if a signal came sooner. Raises what one of them fails with."""
    starting = asyncio.create_task(registry.serve(models))
    with telling_of_loading([model.name or Path(model.config.model_path).name for model in models if model.preload]):
        ready = await stop.or_done(starting)
    if not ready:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return False
    starting.result()
    return True


@contextlib.contextmanager
def _kept(registry: ModelRegistry, hangup: asyncio.Event) -> Iterator[None]:
    """Meanwhile idle models go to sleep, and each SIGHUP has what is declared served."""
    keeping = [
        asyncio.create_task(registry.watch_idle()),
        asyncio.create_task(_refresh_at_each(hangup, registry)),
    ]
    try:
        yield
    finally:
        for task in keeping:
            task.cancel()


def _grpc_listener(settings: ServerSettings) -> GrpcListener | None:
    """Takes gRPC's port, if it has one. Raises ConfigError if it can't be had or gRPC isn't installed."""
    if settings.grpc_port is None:
        return None
    try:
        from penstock.server.kserve.grpc_server import GrpcListener
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--grpc-port needs {error.name}: pip install 'penstock[grpc]'.", param="grpc_port"
        ) from error
    return GrpcListener(settings)


def start_up_lines(
    entries: Sequence[ModelEntry],
    settings: ServerSettings,
    url: str,
    seconds: float,
    grpc_url: str | None = None,
    ensembles: Iterable[Ensemble] = (),
) -> Iterator[str]:
    """What a person wants to know of a server that has just started."""
    yield f"Penstock {penstock.__version__} serves {', '.join(entry.label for entry in entries)}"
    for entry in entries:
        if len(entries) > 1:
            yield f"  {entry.label}"
        if entry.served is None:
            yield "  model      loaded at the first request"
        else:
            yield from _lines_of(entry.served.engine)
    for ensemble in ensembles:
        yield f"  ensemble   {ensemble.name}: " + ", ".join(f"{step.kind} {step.model}" for step in ensemble.steps)
    yield f"  address    {url}" + ("" if settings.uds else "  (API under /v1, chat page at /)")
    if grpc_url is not None:
        yield f"  grpc       {grpc_url}"
    yield f"  ready      after {seconds:.1f} s"


def _lines_of(engine: Engine) -> Iterator[str]:
    if isinstance(engine, EngineClient):
        yield from model_lines(engine.spec, engine.info)
        return
    spec, runner = engine.spec, engine.info.runner
    yield f"  model      {spec.architecture} {spec.kind}, {format_size(engine.info.weight_bytes)}"
    yield f"  device     {runner['device']}, {runner['dtype']}, {runner['runner']}, {runner['threads']} threads"
    yield f"  capacity   {spec.max_length} tokens a text"


def model_lines(spec: ModelSpec, info: EngineInfo) -> Iterator[str]:
    """What the model is, where it runs, and how much fits."""
    runner = info.runner
    verified = runner.get("verified", "unknown")
    path = "verified" if verified == "yes" else f"unverified ({verified})"
    weights = f"{spec.quantization} made {runner['quantization']}" if "quantization" in runner else spec.quantization
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


class HttpServer(Server):  # type: ignore[misc]  # uvicorn is not followed by the type checker
    """uvicorn without its own signal handlers, which know nothing of an engine to drain."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        config = Config(
            app,
            http=Http1Protocol,
            ws=websocket_protocol,
            ws_max_size=settings.max_body_bytes + OVERHEAD_BYTES,
            ws_per_message_deflate=False,  # events are short, and each connection's compressor is not
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


@contextlib.contextmanager
def _hangups() -> Iterator[asyncio.Event]:
    """Set by SIGHUP, from before the start to after the drain: what it does by default is end the process."""
    hangup = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    try:
        yield hangup
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


async def _refresh_at_each(hangup: asyncio.Event, registry: ModelRegistry) -> None:
    """Serve what is declared whenever the event is set, one refresh after the other; never returns."""
    while True:
        await hangup.wait()
        hangup.clear()
        try:
            await registry.refresh()
        except PenstockError as error:
            log.error("the models stay as they are: %s", error.message)  # noqa: TRY400
        except Exception:
            log.exception("the models stay as they are")
        else:
            _say(f"Serves {', '.join(entry.label for entry in registry.entries)}.")


async def _drain(registry: ModelRegistry, settings: ServerSettings, stop: _StopSignals) -> None:
    running = sum(model.engine.stats.running + model.engine.stats.waiting for model in registry)
    _say(f"Stopping: {running} requests in flight get up to {settings.drain_timeout:g} s. Once more stops at once.")
    draining = asyncio.create_task(registry.drain(settings.drain_timeout))
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
