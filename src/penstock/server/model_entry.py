"""One model's place on the server: loaded, asleep or unloaded, and how it gets from one to another."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Literal

import msgspec

from penstock.core.errors import EngineDeadError, NotFoundError, PenstockError
from penstock.engine.client import EngineClient
from penstock.server.served_model import ModelInUse, ServedModel, wrong_kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.engine.config import EngineConfig
    from penstock.engine.supervised import State
    from penstock.server.declared import DeclaredModel
    from penstock.server.engines import Engine
    from penstock.server.observe import Observer
    from penstock.server.served_encoder import EncoderInUse, ServedEncoder

    MakeEngine = Callable[[EngineConfig], Engine]

NOT_LOADED = "model_not_loaded"

Place = Literal["unloaded", "asleep", "loading", "failed"]
_ON_THE_WAY = frozenset({"asleep", "loading"})

log = logging.getLogger(__name__)


class ModelEntry:
    """A declared model. Changes of one wait for each other; requests wait only for a model that is asleep.

    Args:
        declared: what to serve.
        make_engine: an engine for its configuration, not started.
        observer: where its requests are counted.

    Attributes:
        served: the model, if it is in memory.
        reason: why it is not, if it failed to load; for those who run the server, since it may name files.
    """

    def __init__(self, declared: DeclaredModel, make_engine: MakeEngine, observer: Observer) -> None:
        self.declared = declared
        self.served: ServedModel | ServedEncoder | None = None
        self.reason = ""
        self.created = int(time.time())
        self.context: int | None = None  # tokens; this and the next as the model was last loaded
        self.runner: dict[str, str] = {}
        self.adapters: dict[str, str] = {}  # those of its declaration and those loaded since: names and directories
        self._own_name = ""
        self._place: Place = "unloaded"
        self._make_engine = make_engine
        self._observer = observer
        self._lock = asyncio.Lock()
        self._retiring: dict[ServedModel | ServedEncoder, asyncio.Task[None]] = {}
        self._waking: asyncio.Task[None] | None = None
        self._ending = False

    @property
    def name(self) -> str:
        """The served name."""
        return self.declared.name or self._own_name

    @property
    def label(self) -> str:
        """Name and version, where there is more than one to tell apart."""
        return self.name if self.declared.version == "1" else f"{self.name}@{self.declared.version}"

    @property
    def state(self) -> State | Place:
        """Its engine's, or where it is instead."""
        if self.served is not None:
            return self.served.engine.state
        return "draining" if self._ending and self._place in _ON_THE_WAY else self._place

    @property
    def can_serve(self) -> bool:
        """Whether a request would be taken now, or would wake it."""
        return self.state in {"ready", "asleep"}

    async def load(self, declared: DeclaredModel | None = None) -> None:
        """Bring it into memory, as `declared` if that is given.

        What was there before answers until then; after that it finishes what it has and ends. Raises what the engine
        fails to start with; what was there before then stays.
        """
        async with self._lock:
            await self._load(declared or self.declared)

    async def redeclare(self, declared: DeclaredModel) -> None:
        """Be what `declared` says: swap what is in memory if it is another, try again to load what failed.

        What is asleep or unloaded stays so. Raises as `load` does.
        """
        async with self._lock:
            before = self.declared
            changed = (declared.config, declared.tool_format) != (before.config, before.tool_format)
            if self.state == "failed" or (changed and self.served is not None):
                await self._load(declared)
            else:
                self.declared = declared

    def adopt(self, engine: Engine) -> None:
        """Serve an engine that has been started."""
        self._put(engine, self.declared)

    async def use(self, name: str) -> ModelInUse:
        """The generating model for a request that asked for `name`; one that is asleep is loaded first.

        Raises NotFoundError if it was unloaded, EngineDeadError if it can't be loaded, InvalidRequestError if it
        doesn't generate.
        """
        model = await self.use_any(name)
        if not isinstance(model, ModelInUse):
            raise wrong_kind(model, "This takes a generator.")
        return model

    async def use_any(self, name: str) -> ModelInUse | EncoderInUse:
        """As `use`, whatever the model does."""
        if self.served is None and self._place in _ON_THE_WAY:
            await asyncio.shield(self._wake_once())
        if isinstance(self.served, ServedModel):
            return self.served.use(name, adapter="" if self._is_own(name) else name)
        if self.served is not None:
            return self.served.use(name)
        self._check_open()
        if self.reason:
            raise EngineDeadError(
                f"The model {self.name!r} could not be loaded; the server's log says why.", code=NOT_LOADED
            )
        raise NotFoundError(f"The model {self.name!r} is not loaded.", param="model", code="model_not_found")

    def _is_own(self, name: str) -> bool:
        """Whether a name that leads here is the model's; else it is that of an adapter, loaded or not any more."""
        own = self.name
        return name == own or name in self.declared.aliases or name == f"{own}@{self.declared.version}"

    @property
    def retires(self) -> bool:
        """Whether what it served before still has requests to finish."""
        return bool(self._retiring)

    async def load_adapter(self, name: str, path: str) -> None:
        """Serve an adapter of this model, which is loaded first if it is asleep. Raises what it can't be loaded for."""
        model = await self.use(self.name)
        await model.engine.load_adapter(name, path)
        if self.served is not None and self.served.engine is model.engine:
            self.adapters[name] = path

    def unload_adapter(self, name: str) -> None:
        """Take no more requests for an adapter; those that it has are finished."""
        del self.adapters[name]
        if isinstance(self.served, ServedModel):
            self.served.engine.unload_adapter(name)

    def _added(self) -> dict[str, str]:
        """The adapters that were loaded since the model was."""
        declared = dict(self.declared.config.lora_modules)
        return {name: path for name, path in self.adapters.items() if name not in declared}

    async def unload(self) -> None:
        """Take no more requests; what is running may finish, then its memory is free."""
        async with self._lock:
            self._place = "unloaded"
            self._retire()

    def idle_for(self, now: float) -> float | None:
        """Seconds for which nobody has used it; None if it may stay in memory, or isn't there."""
        if self.served is None or self.declared.idle_unload is None:
            return None
        return 0.0 if self.served.uses else now - self.served.last_used

    async def sleep(self) -> None:
        """Leave memory until the next request, unless one came meanwhile."""
        async with self._lock:
            served = self.served
            if served is not None and not served.uses:
                self._place = "asleep"
                self._retire()
                await asyncio.shield(self._retiring[served])  # whoever wakes it needs the memory

    def sleep_from_the_start(self) -> None:
        """Wait for the first request."""
        self._place = "asleep"

    async def drain(self, timeout: float) -> bool:  # noqa: ASYNC109 - as EngineClient has it
        """Refuse new requests and wait for those in flight; False if some were left."""
        self._ending = True
        models = [*self._retiring, *([self.served] if self.served else [])]
        return all(await asyncio.gather(*(model.engine.drain(timeout) for model in models)))

    async def close(self) -> None:
        """End at once, with what is in flight."""
        self._ending = True
        if self._waking is not None:
            self._waking.cancel()
            await asyncio.gather(self._waking, return_exceptions=True)
        retiring = dict(self._retiring)
        for task in retiring.values():
            task.cancel()
        await asyncio.gather(*retiring.values(), return_exceptions=True)
        for model in (*retiring, *([self.served] if self.served else [])):
            await model.close()
        self.served = None
        self._place = "unloaded"

    async def _load(self, declared: DeclaredModel) -> None:
        self._check_open()
        before, self._place = self._place, "loading"
        self.reason = ""
        try:
            adapters = {**self._added(), **dict(declared.config.lora_modules)}
            engine = self._make_engine(msgspec.structs.replace(declared.config, lora_modules=tuple(adapters.items())))
            await engine.start()
        except PenstockError as error:
            self._place, self.reason = "asleep" if before == "asleep" else "failed", error.message
            raise
        except BaseException:
            self._place = before
            raise
        try:
            self._check_open()
        except EngineDeadError:
            self._place = before
            await engine.close()
            raise
        self._put(engine, declared)

    def _put(self, engine: Engine, declared: DeclaredModel) -> None:
        self.reason = ""
        self.declared = declared
        loaded = engine.adapters if isinstance(engine, EngineClient) else {}
        self.adapters = {name: info.path for name, info in loaded.items()}
        self._own_name = engine.spec.name
        self.context = engine.info.max_model_len
        self.runner = engine.info.runner
        self.created = int(time.time())
        self._retire()
        self.served = serve(engine, self.label, declared, self._observer)

    def _check_open(self) -> None:
        if self._ending:
            raise EngineDeadError("The server is shutting down and takes no new requests.", code="engine_draining")

    def _wake_once(self) -> asyncio.Task[None]:
        """The waking of all who wait for it; one of them who gives up doesn't end it."""
        if self._waking is None:
            self._waking = asyncio.create_task(self._wake())
            self._waking.add_done_callback(self._woken)
        return self._waking

    def _woken(self, _task: asyncio.Task[None]) -> None:
        self._waking = None

    async def _wake(self) -> None:
        async with self._lock:
            if self.served is not None or self._place != "asleep" or self._ending:
                return
            try:
                await self._load(self.declared)  # if it fails it stays asleep: what it lacks may be there next time
            except PenstockError as error:
                log.error("%s could not be loaded: %s", self.label, error.message)  # noqa: TRY400

    def _retire(self) -> None:
        old, self.served = self.served, None
        if old is not None:
            task = asyncio.create_task(old.retire())
            self._retiring[old] = task
            task.add_done_callback(lambda _: self._retiring.pop(old, None))


def serve(engine: Engine, name: str, declared: DeclaredModel, observer: Observer) -> ServedModel | ServedEncoder:
    """An engine that has been started, as what it is."""
    counts = observer.of_model(name)
    if isinstance(engine, EngineClient):
        return ServedModel(
            engine, name=name, version=declared.version, observer=counts, tool_format=declared.tool_format
        )
    from penstock.server.served_encoder import ServedEncoder  # few servers have one

    engine.on_batch = observer.batches_of(name)
    return ServedEncoder(engine, name=name, version=declared.version, observer=counts)
