"""A loaded model as requests meet it: its engine, its prompts' reader, and who is using it now."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import penstock
from penstock.core.errors import InvalidRequestError
from penstock.models.pooling import pooling_of
from penstock.server.dialect import ChatDialect
from penstock.server.generation import Generation
from penstock.server.prompts import PromptReader
from penstock.server.structured import field_of

if TYPE_CHECKING:
    from penstock.engine.client import EngineClient
    from penstock.engine.encoders.client import EncoderClient
    from penstock.engine.types import Pooling, SamplingParams
    from penstock.models.tool_families import Spelling
    from penstock.server.ensembles.in_use import EnsembleInUse
    from penstock.server.observe import ModelObserver
    from penstock.server.requests import GenerationRequest

MAX_SEQUENCES = 1024  # of one request: prompts times n
E = TypeVar("E", bound="EngineClient | EncoderClient")


@dataclass(frozen=True, slots=True)
class Head:
    """What the body of an answer, and each chunk of a streamed one, begins with."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class Served(Generic[E]):
    """One engine that has been started, under one name.

    Args:
        engine: what computes; closed with this.
        name: the served name.
        version: of the model, as whoever serves it counts.
        observer: where its requests are counted.
    """

    def __init__(self, engine: E, *, name: str, version: str, observer: ModelObserver) -> None:
        self.engine = engine
        self.name = name
        self.version = version
        self.observer = observer
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

    async def retire(self) -> None:
        """Wait until no request uses it, then close it. No new use may begin meanwhile."""
        self._loop = asyncio.get_running_loop()
        if self._uses:
            await self._unused.wait()
        await self.close()

    async def close(self) -> None:
        """End its engine and threads; what is in flight raises EngineDeadError."""
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


class ServedModel(Served["EngineClient"]):
    """A model that generates; arguments as for `Served` and `ChatDialect`."""

    def __init__(
        self,
        engine: EngineClient,
        *,
        name: str,
        version: str,
        observer: ModelObserver,
        tool_format: Spelling = "auto",
    ) -> None:
        super().__init__(engine, name=name, version=version, observer=observer)
        self.dialect = ChatDialect(engine, tool_format)
        self.prompts = PromptReader(engine, self.dialect)
        self.pooling: Pooling | None = None  # once an embedding was asked for

    def use(self, name: str, *, adapter: str = "") -> ModelInUse:
        """The model for one request, under the name that it was asked for by, which may be that of an adapter."""
        return ModelInUse(self, name, adapter)

    async def close(self) -> None:
        self.prompts.close()
        await super().close()


class InUse(Generic[E]):
    """A model in the hands of one request. While one of these exists, the model stays loaded.

    A request may end before its answer's first byte is asked for, when nothing that it opened runs its own end any
    more; so it is this object's end that counts, not a call.
    """

    kind: str  # what such a model does, for people

    def __init__(self, served: Served[E], name: str) -> None:
        self.name = name
        self.engine = served.engine
        self.observer = served.observer
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


class ModelInUse(InUse["EngineClient"]):
    """A generating model in the hands of one request."""

    kind = "generator"

    def __init__(self, served: ServedModel, name: str, adapter: str) -> None:
        super().__init__(served, name)
        self.adapter = adapter
        self.dialect = served.dialect
        self.prompts = served.prompts
        self._served = served
        self.ensemble: EnsembleInUse | None = None  # whose last step this is

    @property
    def timing(self) -> dict[str, str]:
        """A header that tells how long an ensemble's steps took so far; none of a plain model."""
        return {} if self.ensemble is None else {"server-timing": self.ensemble.server_timing}

    async def pooling(self) -> Pooling:
        """What makes a prompt's vector: as the model's files say, else its last token."""
        served = self._served
        if served.pooling is not None:
            return served.pooling
        found = await asyncio.to_thread(pooling_of, Path(self.engine.config.model_path))
        served.pooling = found
        return found

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
        generation = Generation(
            self.engine,
            prompts,
            params,
            request_id=request_id,
            priority=request.priority or 0,
            cache_salt=request.cache_salt or "",
            adapter=self.adapter,
            arrived=arrived,
            grammar_field=field_of(request) or "tools",
            observer=self.observer,
            holds=self,
        )
        if self.ensemble is not None:
            generation.on_end = self.ensemble.generating()
        return generation


def wrong_kind(model: InUse[EngineClient] | InUse[EncoderClient], wanted: str) -> InvalidRequestError:
    """For a request that this kind of model can't answer."""
    return InvalidRequestError(
        f"The model {model.name!r} is of the kind '{model.kind}'. {wanted}", param="model", code="wrong_model_kind"
    )
