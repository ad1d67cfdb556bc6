"""What the router and the OpenAPI document know of one endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from penstock.server.responses import ErrorBody

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

BODY_ERRORS = (400, 404, 408, 413)
GENERATION_ERRORS = (*BODY_ERRORS, 422, 429, 500, 503)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path and method.

    `takes` is the type of the body, of `media` type, `gives` that of the answer (None: bytes of `gives_media` type),
    `chunk` that of a stream's events. `query` maps parameters to their JSON schema; `errors` are the statuses it may
    answer beside 200, with bodies of `error_body`. `done` says whether a stream ends in `[DONE]`.
    `aliases` are other paths to the same.
    """

    path: str
    method: Literal["GET", "POST", "DELETE"]
    handler: Callable[[Request], Awaitable[Response]]
    summary: str
    takes: type | None = None
    gives: type | None = None
    chunk: type | None = None
    query: dict[str, dict[str, Any]] | None = None
    errors: tuple[int, ...] = ()
    media: str = "application/json"
    gives_media: str = "text/plain"
    error_body: type = ErrorBody
    done: bool = True
    aliases: tuple[str, ...] = ()
