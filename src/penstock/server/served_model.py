"""A loaded model as requests meet it: its engine, its prompts' reader, and who is using it now."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

import penstock
from penstock.core.errors import InvalidRequestError
from penstock.server.dialect import ChatDialect
from penstock.server.generation import Generation
from penstock.server.prompts import PromptReader
from penstock.server.structured import field_of

if TYPE_CHECKING:
    from penstock.engine.client import EngineClient
    from penstock.engine.types import SamplingParams
    from penstock.server.observe import ModelObserver
    from penstock.server.requests import GenerationRequest

MAX_SEQUENCES = 1024  # of one request: prompts times n


@dataclass(frozen=True, slots=True)
class Head:
    """What the body of an answer, and each chunk of a streamed one, begins with."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class ServedModel:
    """One engine that has been started, under one name.

    Args:
        engine: what generates; closed with this.
        name: the served name.
        version: of the model, as whoever serves it counts.
        observer: where its requests are counted.
    """

    def __init__(self, engine: EngineClient, *, name: str, version: str, observer: ModelObserver) -> None:
        self.engine = engine
        self.name = name
        self.version = version
        self.observer = observer
        self.dialect = ChatDialect(engine)
        self.prompts = PromptReader(engine, self.dialect)
        self.created = int(time.time())
        self.last_used = time.monotonic()
        seen = (penstock.__version__, engine.spec, sorted(engine.info.runner.items()))
        self.fingerprint = "fp_" + hashlib.sha256(repr(seen).encode()).hexdigest()[:10]
        self._uses = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unused = asyncio.Event()

    @property
    def uses(self) -> int:
        """Requests that have this model in their hands."""
        return self._uses

    def use(self, name: str, *, adapter: bool = False) -> ModelInUse:
        """The model for one request, under the name that it was asked for by: its own, or that of an adapter."""
        return ModelInUse(self, name, adapter=adapter)

    async def retire(self) -> None:
        """Wait until no request uses it, then close it. No new use may begin meanwhile."""
        self._loop = asyncio.get_running_loop()
        if self._uses:
            await self._unused.wait()
        await self.close()

    async def close(self) -> None:
        """End its engine and threads; what is in flight raises EngineDeadError."""
        self.prompts.close()
        await self.engine.close()

    def _enter(self) -> None:
        self._uses += 1
        self.last_used = time.monotonic()

    def _leave(self) -> None:
        """Called when a use is garbage, in whichever thread that happens."""
        self._uses -= 1
        self.last_used = time.monotonic()
        if not self._uses and self._loop is not None:
            self._loop.call_soon_threadsafe(self._unused.set)


class ModelInUse:
    """A model in the hands of one request. While one of these exists, the model stays loaded.

    A request may end before its answer's first byte is asked for, when nothing that it opened runs its own end any
    more; so it is this object's end that counts, not a call.
    """

    def __init__(self, served: ServedModel, name: str, *, adapter: bool = False) -> None:
        self.name = name
        self.engine = served.engine
        self.dialect = served.dialect
        self.prompts = served.prompts
        self.observer = served.observer
        self.adapter = name if adapter else ""
        self._fingerprint = served.fingerprint
        served._enter()
        weakref.finalize(self, served._leave).atexit = False

    @property
    def context(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.engine.info.max_model_len

    def head(self, prefix: str) -> Head:
        """The head of a new answer."""
        return Head(f"{prefix}-{uuid.uuid4().hex}", int(time.time()), self.name, self._fingerprint)

    def start(
        self,
        request: GenerationRequest,
        prompts: list[list[int]],
        params: SamplingParams,
        *,
        request_id: str,
        arrived: float,
    ) -> Generation:
        """Hand the prompts to the engine. Raises what it refuses them with."""
        if len(prompts) * params.n > MAX_SEQUENCES:
            raise InvalidRequestError(
                f"{len(prompts)} prompts with n={params.n} make {len(prompts) * params.n} sequences; one request may "
                f"ask for {MAX_SEQUENCES}.",
                param="n" if params.n > 1 else "prompt",
                code="invalid_value",
            )
        return Generation(
            self,
            prompts,
            params,
            request_id=request_id,
            priority=request.priority or 0,
            cache_salt=request.cache_salt or "",
            adapter=self.adapter,
            arrived=arrived,
            grammar_field=field_of(request) or "tools",
        )
