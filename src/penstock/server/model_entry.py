"""One model's place on the server: loaded, asleep or unloaded, and how it gets from one to another."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Literal

from penstock.core.errors import EngineDeadError, NotFoundError, PenstockError
from penstock.server.served_model import ServedModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.engine.client import EngineClient, State
    from penstock.engine.config import EngineConfig
    from penstock.server.declared import DeclaredModel
    from penstock.server.observe import Observer
    from penstock.server.served_model import ModelInUse

    MakeEngine = Callable[[EngineConfig], EngineClient]

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
        self.served: ServedModel | None = None
        self.reason = ""
        self.created = int(time.time())
        self.context: int | None = None  # tokens; this and the next as the model was last loaded
        self.runner: dict[str, str] = {}
        self._own_name = ""
        self._place: Place = "unloaded"
        self._make_engine = make_engine
        self._observer = observer
        self._lock = asyncio.Lock()
        self._retiring: dict[ServedModel, asyncio.Task[None]] = {}
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
            changed = declared.config != self.declared.config
            if self.state == "failed" or (changed and self.served is not None):
                await self._load(declared)
            else:
                self.declared = declared

    def adopt(self, engine: EngineClient) -> None:
        """Serve an engine that has been started."""
        self._put(engine, self.declared)

    async def use(self, name: str) -> ModelInUse:
        """The model for a request that asked for `name`; one that is asleep is loaded first.

        Raises NotFoundError if it was unloaded, EngineDeadError if it can't be loaded.
        """
        if self.served is None and self._place in _ON_THE_WAY:
            await asyncio.shield(self._wake_once())
        if self.served is not None:
            return self.served.use(name)
        self._check_open()
        if self.reason:
            raise EngineDeadError(
                f"The model {self.name!r} could not be loaded; the server's log says why.", code=NOT_LOADED
            )
        raise NotFoundError(f"The model {self.name!r} is not loaded.", param="model", code="model_not_found")

    @property
    def retires(self) -> bool:
        """Whether what it served before still has requests to finish."""
        return bool(self._retiring)

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
            engine = self._make_engine(declared.config)
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

    def _put(self, engine: EngineClient, declared: DeclaredModel) -> None:
        self.reason = ""
        self.declared = declared
        self._own_name = engine.spec.name
        self.context = engine.info.max_model_len
        self.runner = engine.info.runner
        self.created = int(time.time())
        self._retire()
        self.served = ServedModel(
            engine, name=self.label, version=declared.version, observer=self._observer.of_model(self.label)
        )

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
