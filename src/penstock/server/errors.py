"""Every failure as an answer in OpenAI's shape, `{"error": {"message", "type", "param", "code"}}`, or Anthropic's."""

from __future__ import annotations

import logging
import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from penstock.core.errors import EngineDeadError, OverloadedError, PenstockError
from penstock.server.hangup import ClientGoneError
from penstock.server.responses import ErrorBody, ErrorDetail

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

MESSAGES = "/v1/messages"  # and below: errors have Anthropic's shape
WEBSOCKET = "/v1/stream"
KSERVE = "/v2"  # below which errors have the shape of the KServe protocol
COHERES_RERANK = "/v2/rerank"  # an API of its own beside that protocol
CLIENT_GONE = 499  # nginx's number for it; no client ever sees it
RETRY_AFTER_SECONDS = "1"
HEAD_TOO_LARGE = "The request's path and headers are larger than this server takes."


def body_of(error: PenstockError) -> ErrorBody:
    """The error as a body; of a stream's last event too."""
    return ErrorBody(ErrorDetail(message=error.message, type=error.type, param=error.param, code=error.code))


def error_body(error: PenstockError, path: str) -> bytes:
    """The error as the API that has this path writes it."""
    return _in_shape(body_of(error), error.http_status, path)


def _in_shape(body: ErrorBody, status: int, path: str) -> bytes:
    if (path == KSERVE or path.startswith(KSERVE + "/")) and path != COHERES_RERANK:
        from penstock.server.kserve.types import InferError

        return msgspec.json.encode(InferError(body.error.message, body.error.param, body.error.code))
    if path == MESSAGES or path.startswith(MESSAGES + "/"):
        from penstock.server.messages_api.objects import AnthropicError, anthropic_error

        return msgspec.json.encode(AnthropicError(error=anthropic_error(status, body.error.message)))
    return msgspec.json.encode(body)


def error_response(
    status: int,
    message: str,
    *,
    kind: str,
    path: str,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error that no exception class stands for, to a request for `path`."""
    body = ErrorBody(ErrorDetail(message=message, type=kind, code=code))
    return Response(_in_shape(body, status, path), status, headers, media_type="application/json")


def response_of(error: PenstockError, path: str) -> Response:
    """An error of the project's tree, under its own status, to a request for `path`."""
    headers = {}
    if isinstance(error, OverloadedError | EngineDeadError):
        headers["retry-after"] = RETRY_AFTER_SECONDS
    if error.http_status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return Response(error_body(error, path), error.http_status, headers, media_type="application/json")


async def on_penstock_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for PenstockError."""
    assert isinstance(error, PenstockError)  # registered for this class alone
    return response_of(error, request.url.path)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for HTTPException: no such route, wrong method, a body that doesn't come."""
    assert isinstance(error, HTTPException)  # registered for this class alone
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            message = f"There is nothing at {request.method} {request.url.path}.{_hint(request)}"
            kind = "not_found_error"
        case HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = (error.headers or {}).get("Allow", "another method")
            message = f"{request.url.path} takes {allowed}, not {request.method}."
            kind = "invalid_request_error"
        case _:
            message, kind = error.detail, "invalid_request_error"
    return error_response(error.status_code, message, kind=kind, path=request.url.path, headers=error.headers)


def _hint(request: Request) -> str:
    """What to do about a path that there isn't: mostly a base URL with or without its /v1."""
    path = request.url.path
    if path == WEBSOCKET:
        return " It is a WebSocket, and the request asks for no upgrade."
    if path.startswith(KSERVE):
        return ""
    for meant in (f"/v1{path}", path.removeprefix("/v1")):
        scope = {**request.scope, "path": meant}
        if len(meant) > 1 and any(route.matches(scope)[0] is Match.FULL for route in request.app.routes):
            return f" There is {meant}: the base URL of OpenAI's clients ends in one /v1, of Anthropic's in none."
    return " /openapi.json lists what there is."


def internal_error(cause: Exception) -> PenstockError:
    """A 500 under a fresh id; the log has the cause under it, the client sees the id alone."""
    incident = secrets.token_hex(6)
    log.error("internal error %s", incident, exc_info=cause)
    return PenstockError(f"Something went wrong inside the server. Its log has the cause under {incident}.")


class UnexpectedErrors:
    """The documented boundary: whatever escapes the routes becomes a 500 that says nothing but its id."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except ClientGoneError:
            raise  # nobody to answer
        except Exception as cause:
            error = internal_error(cause)
            if started:
                raise  # too late for a status: the connection has to break
            await response_of(error, scope["path"])(scope, receive, send)
