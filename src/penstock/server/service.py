"""What every endpoint of one server shares, and the way that both kinds of generation go."""

from __future__ import annotations

import hashlib
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response

import penstock
from penstock.core.errors import InvalidRequestError, NotFoundError
from penstock.server.generation import Generation
from penstock.server.hangup import while_connected
from penstock.server.observe import Observer
from penstock.server.prompts import PromptReader
from penstock.server.responses import ModelCard
from penstock.server.sse import EventStream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from starlette.requests import Request

    from penstock.engine.client import EngineClient
    from penstock.engine.types import SamplingParams
    from penstock.server.generation import Choice
    from penstock.server.requests import GenerationRequest
    from penstock.server.settings import ServerSettings

MAX_SEQUENCES = 1024  # of one request: prompts times n
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Head:
    """What the body of an answer, and each chunk of a streamed one, begins with."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class Service:
    """One server over one engine, which has been started.

    Args:
        engine: what generates.
        settings: names, limits and targets.
    """

    def __init__(self, engine: EngineClient, settings: ServerSettings) -> None:
        self.engine = engine
        self.settings = settings
        self.model = settings.served_model_name or engine.spec.name
        self.names = tuple(dict.fromkeys((self.model, *settings.aliases)))
        self.created = int(time.time())
        self.observer = Observer(engine, self.model)
        self.prompts = PromptReader(engine)
        seen = (penstock.__version__, engine.spec, sorted(engine.info.runner.items()))
        self._fingerprint = "fp_" + hashlib.sha256(repr(seen).encode()).hexdigest()[:10]

    def close(self) -> None:
        """End the threads; the engine belongs to the caller."""
        self.prompts.close()

    def resolve(self, name: str | None) -> str:
        """The name that an answer bears: the one asked for. Raises NotFoundError for a model that isn't served."""
        if name is None:
            return self.model
        if name not in self.names:
            known = ", ".join(self.names)
            raise NotFoundError(
                f"The model {name[:256]!r} is not served here; there is {known}.", param="model", code="model_not_found"
            )
        return name

    def card(self, name: str) -> ModelCard:
        """What /v1/models says of one name."""
        return ModelCard(id=name, created=self.created, root=self.model, max_model_len=self.engine.info.max_model_len)

    def head(self, prefix: str, model: str | None) -> Head:
        """The head of a new answer. Raises NotFoundError for a model that isn't served."""
        return Head(f"{prefix}-{uuid.uuid4().hex}", int(time.time()), self.resolve(model), self._fingerprint)

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
            self.engine,
            prompts,
            params,
            request_id=request_id,
            priority=request.priority or 0,
            cache_salt=request.cache_salt or "",
            observer=self.observer,
            arrived=arrived,
        )

    async def answer(
        self,
        http: Request,
        generation: Generation,
        *,
        whole: Callable[[list[Choice]], msgspec.Struct],
        events: AsyncGenerator[bytes, None] | None,
        headers: Mapping[str, str],
    ) -> Response:
        """`events` as they come, or if there are none, the whole once it is there.

        Raises ClientGoneError if the client hangs up first; what it asked for has then been aborted.
        """
        if events is not None:
            return EventStream(events, headers=headers, keepalive_seconds=self.settings.keepalive_seconds)
        choices = await while_connected(http.receive, generation.collect())
        return json_response(whole(choices), headers)


def json_response(body: msgspec.Struct, headers: Mapping[str, str] | None = None) -> Response:
    """A success, as JSON."""
    return Response(_encode(body), headers=headers, media_type="application/json")


def check_stream_options(request: GenerationRequest) -> None:
    """Raises InvalidRequestError for options of a stream without a stream."""
    if request.stream_options is not None and not request.stream:
        raise InvalidRequestError(
            "'stream_options' is for streams; set 'stream' to true.", param="stream_options", code="invalid_value"
        )
