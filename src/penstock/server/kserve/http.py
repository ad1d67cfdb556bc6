"""The protocol over HTTP: every path below /v2.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md, and Triton's
extensions: https://github.com/triton-inference-server/server/tree/main/docs/protocol.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route, Router

from penstock.core.errors import EngineDeadError, InvalidRequestError
from penstock.server.body import read_bytes
from penstock.server.errors import error_body
from penstock.server.hangup import while_connected
from penstock.server.kserve import refused
from penstock.server.kserve.http_body import (
    HEADER_LENGTH,
    compressed,
    decode,
    generated,
    read_generate,
    read_infer,
    uncompressed,
    write_infer,
)
from penstock.server.sse import EventStream, event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from starlette.requests import Request

    from penstock.core.errors import PenstockError
    from penstock.server.kserve.answer import Answer
    from penstock.server.kserve.protocol import KServe
    from penstock.server.settings import ServerSettings

CALLS = ("infer", "generate", "generate_stream")
_encode = msgspec.json.Encoder().encode


class IndexBody(Struct, forbid_unknown_fields=True):
    """Body of a question for the repository's index; it may be empty."""

    ready: bool = False


class ControlBody(Struct, forbid_unknown_fields=True):
    """Body of a wish to load or unload a model; it may be empty."""

    parameters: dict[str, Any] | None = None


class HttpEndpoints:
    """What answers below /v2.

    Args:
        kserve: what is asked.
        settings: limits.
    """

    def __init__(self, kserve: KServe, settings: ServerSettings) -> None:
        self._kserve = kserve
        self._settings = settings

    def router(self) -> Router:
        """All of it, by path and method."""
        routes = [Route("/v2/" + path, _refusing(why), methods=["GET", "POST"]) for path, why in refused.PATHS.items()]
        routes += [
            Route("/v2", self.server, methods=["GET"]),
            Route("/v2/health/live", self.live, methods=["GET"]),
            Route("/v2/health/ready", self.ready, methods=["GET"]),
            Route("/v2/models/stats", self.statistics, methods=["GET"]),
            Route("/v2/repository/index", self.index, methods=["POST"]),
            Route("/v2/repository/models/{model:path}/load", self.load, methods=["POST"]),
            Route("/v2/repository/models/{model:path}/unload", self.unload, methods=["POST"]),
        ]
        for model in ("/v2/models/{model:path}/versions/{version}", "/v2/models/{model:path}"):
            routes += [
                Route(model + "/infer", self.infer, methods=["POST"]),
                Route(model + "/generate", self.generate, methods=["POST"]),
                Route(model + "/generate_stream", self.generate_stream, methods=["POST"]),
                *(Route(f"{model}/{call}", _only_posted, methods=["GET"]) for call in CALLS),  # no model's name
                Route(model + "/ready", self.model_ready, methods=["GET"]),
                Route(model + "/config", self.config, methods=["GET"]),
                Route(model + "/stats", self.statistics, methods=["GET"]),
            ]
        for model in ("/v2/models/{model:path}/versions/{version}", "/v2/models/{model:path}"):
            routes.append(Route(model, self.metadata, methods=["GET"]))
        return Router(routes, redirect_slashes=False)

    async def server(self, _http: Request) -> Response:
        """What the server is."""
        return _json(self._kserve.server_metadata())

    async def live(self, _http: Request) -> Response:
        """200 for as long as this process lives."""
        return Response()

    async def ready(self, _http: Request) -> Response:
        """200 if every model would take a request now."""
        if not self._kserve.ready:
            raise EngineDeadError("A model is not ready. POST /v2/repository/index says which.", code="not_ready")
        return Response()

    async def model_ready(self, http: Request) -> Response:
        """200 if this model would."""
        name, version = _named(http)
        if not self._kserve.model_ready(name, version):
            raise EngineDeadError(f"The model {name!r} is not ready.", code="not_ready")
        return Response()

    async def metadata(self, http: Request) -> Response:
        """What goes into a model and what comes out."""
        return _json(self._kserve.model_metadata(*_named(http)))

    async def config(self, http: Request) -> Response:
        """A model's configuration."""
        return _json(self._kserve.model_config(*_named(http)))

    async def statistics(self, http: Request) -> Response:
        """Of one model, or of all."""
        return _json(self._kserve.statistics(*_named(http)))

    async def index(self, http: Request) -> Response:
        """The models there are."""
        raw = await self._body(http)
        body = decode(raw, IndexBody) if raw.strip() else IndexBody()
        return _json(self._kserve.index(ready=body.ready))

    async def load(self, http: Request) -> Response:
        """Load a model."""
        await self._kserve.load(http.path_params["model"], await self._control(http))
        return Response()

    async def unload(self, http: Request) -> Response:
        """Unload a model."""
        await self._kserve.unload(http.path_params["model"], await self._control(http))
        return Response()

    async def infer(self, http: Request) -> Response:
        """Tensors in, tensors out."""
        arrived = time.monotonic()
        name, version = _named(http)
        raw = await self._body(http)
        request, wanted = read_infer(raw, http.headers.get(HEADER_LENGTH), model=name, version=version, arrived=arrived)
        answer = await self._kserve.infer(request, streams_by="generate_stream, or ModelStreamInfer over gRPC")
        response = await while_connected(http.receive, answer.whole())
        body, headers = write_infer(response, wanted)
        body, encoding = compressed(body, http.headers.get("accept-encoding", ""))
        if encoding:
            headers["content-encoding"] = encoding
        return Response(body, headers=headers)

    async def generate(self, http: Request) -> Response:
        """A text in, a text out."""
        answer = await self._generate(http, streams_by="generate_stream")
        return _json(generated(await while_connected(http.receive, answer.whole())))

    async def generate_stream(self, http: Request) -> Response:
        """A text in, server-sent events out."""
        answer = await self._generate(http)
        return EventStream(
            _events(answer), headers={}, keepalive_seconds=self._settings.keepalive_seconds, failure=_failure
        )

    async def _generate(self, http: Request, *, streams_by: str = "") -> Answer:
        arrived = time.monotonic()
        name, version = _named(http)
        request = read_generate(await self._body(http), model=name, version=version, arrived=arrived)
        return await self._kserve.infer(request, streams_by=streams_by)

    async def _control(self, http: Request) -> dict[str, Any]:
        """The parameters of a wish to load or unload."""
        raw = await self._body(http)
        return (decode(raw, ControlBody).parameters or {}) if raw.strip() else {}

    async def _body(self, http: Request) -> bytes:
        limit = self._settings.max_body_bytes
        raw, encoding = await read_bytes(http, limit), http.headers.get("content-encoding", "")
        # A small body may hold a large one, which takes long enough for other streams to notice.
        return await asyncio.to_thread(uncompressed, raw, encoding, limit) if encoding else raw


async def _events(answer: Answer) -> AsyncGenerator[bytes, None]:
    if not answer.stream:
        yield event(generated(await answer.whole()))
        return
    async with aclosing(answer.parts()) as parts:
        async for response in parts:
            yield event(generated(response))


def _failure(error: PenstockError) -> bytes:
    return b"data: %b\n\n" % error_body(error, "/v2")


def _named(http: Request) -> tuple[str, str]:
    return http.path_params.get("model", ""), http.path_params.get("version", "")


def _json(body: Struct | list[Any] | dict[str, Any]) -> Response:
    return Response(_encode(body), media_type="application/json")


async def _only_posted(_http: Request) -> Response:
    raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "POST"})


def _refusing(why: str) -> Callable[[Request], Awaitable[Response]]:
    async def refuse(_http: Request) -> Response:
        raise InvalidRequestError(why, code="not_supported")

    return refuse
