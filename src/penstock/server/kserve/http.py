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

from penstock.core.errors import EngineDeadError, InvalidRequestError
from penstock.server.body import read_bytes
from penstock.server.errors import error_body
from penstock.server.hangup import while_connected
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
    from penstock.server.kserve.protocol import AnyAnswer, KServe
    from penstock.server.service import Service
    from penstock.server.settings import ServerSettings

_encode = msgspec.json.Encoder().encode


class IndexBody(Struct, forbid_unknown_fields=True):
    """Body of a question for the repository's index; it may be empty."""

    ready: bool = False


class ControlBody(Struct, forbid_unknown_fields=True):
    """Body of a wish to load or unload a model; it may be empty."""

    parameters: dict[str, Any] | None = None


async def server_metadata(http: Request) -> Response:
    """What the server is."""
    return _json(_kserve(http).server_metadata())


async def server_live(_http: Request) -> Response:
    """200 for as long as this process lives."""
    return Response()


async def server_ready(http: Request) -> Response:
    """200 if every model would take a request now."""
    if not _kserve(http).ready:
        raise EngineDeadError("A model is not ready. POST /v2/repository/index says which.", code="not_ready")
    return Response()


async def model_ready(http: Request) -> Response:
    """200 if this model would."""
    name, version = _named(http)
    if not _kserve(http).model_ready(name, version):
        raise EngineDeadError(f"The model {name!r} is not ready.", code="not_ready")
    return Response()


async def model_metadata(http: Request) -> Response:
    """What goes into a model and what comes out."""
    return _json(_kserve(http).model_metadata(*_named(http)))


async def model_config(http: Request) -> Response:
    """A model's configuration."""
    return _json(_kserve(http).model_config(*_named(http)))


async def statistics(http: Request) -> Response:
    """Of all models."""
    return _json(_kserve(http).statistics("", ""))


async def model_statistics(http: Request) -> Response:
    """Of one model."""
    return _json(_kserve(http).statistics(*_named(http)))


async def repository_index(http: Request) -> Response:
    """The models there are."""
    raw = await _body(http)
    body = decode(raw, IndexBody) if raw else IndexBody()
    return _json(_kserve(http).index(ready=body.ready))


async def load_model(http: Request) -> Response:
    """Load a model."""
    await _kserve(http).load(http.path_params["model"], await _control(http))
    return Response()


async def unload_model(http: Request) -> Response:
    """Unload a model."""
    await _kserve(http).unload(http.path_params["model"], await _control(http))
    return Response()


async def infer(http: Request) -> Response:
    """Tensors in, tensors out."""
    arrived = time.monotonic()
    name, version = _named(http)
    raw = await _body(http)
    request, wanted = read_infer(
        raw,
        http.headers.get(HEADER_LENGTH),
        model=name,
        version=version,
        arrived=arrived,
        signature=_kserve(http).signature(name, version),
    )
    answer = await _kserve(http).infer(request, streams_by="generate_stream, or ModelStreamInfer over gRPC")
    response = await while_connected(http.receive, answer.whole())
    body, headers = write_infer(response, wanted)
    body, encoding = compressed(body, http.headers.get("accept-encoding", ""))
    if encoding:
        headers["content-encoding"] = encoding
    return Response(body, headers=headers)


async def generate(http: Request) -> Response:
    """A text in, a text out."""
    answer = await _generate(http, streams_by="generate_stream")
    return _json(generated(await while_connected(http.receive, answer.whole())))


async def generate_stream(http: Request) -> Response:
    """A text in, server-sent events out."""
    answer = await _generate(http)
    keepalive_seconds = _settings(http).keepalive_seconds
    return EventStream(_events(answer), headers={}, keepalive_seconds=keepalive_seconds, failure=_failure)


async def only_posted(_http: Request) -> Response:
    """What answers a question to a path that is to be posted to."""
    raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "POST"})


def refusing(why: str) -> Callable[[Request], Awaitable[Response]]:
    """What answers a path of the protocol that has nothing behind it here."""

    async def refuse(_http: Request) -> Response:
        raise InvalidRequestError(why, code="not_supported")

    return refuse


def _kserve(http: Request) -> KServe:
    kserve: KServe = http.app.state.kserve.kserve
    return kserve


def _settings(http: Request) -> ServerSettings:
    service: Service = http.app.state.service
    return service.settings


async def _generate(http: Request, *, streams_by: str = "") -> AnyAnswer:
    arrived = time.monotonic()
    name, version = _named(http)
    raw = await _body(http)
    signature = _kserve(http).signature(name, version)
    request = read_generate(raw, model=name, version=version, arrived=arrived, signature=signature)
    return await _kserve(http).infer(request, streams_by=streams_by)


async def _control(http: Request) -> dict[str, Any]:
    """The parameters of a wish to load or unload."""
    raw = await _body(http)
    return (decode(raw, ControlBody).parameters or {}) if raw else {}


async def _body(http: Request) -> bytes:
    limit = _settings(http).max_body_bytes
    raw, encoding = await read_bytes(http, limit), http.headers.get("content-encoding", "")
    # A small body may hold a large one, which takes long enough for other streams to notice.
    return await asyncio.to_thread(uncompressed, raw, encoding, limit) if encoding else raw


async def _events(answer: AnyAnswer) -> AsyncGenerator[bytes, None]:
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
