"""What the router and the OpenAPI document know of one endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, cast

from starlette.routing import Route, Router

from penstock.server.responses import ErrorBody

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

BODY_ERRORS = (400, 404, 408, 413)
GENERATION_ERRORS = (*BODY_ERRORS, 422, 429, 500, 503)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path and method.

    `takes` is the type of the body, of `media` type, `gives` that of the answer (None: bytes of `gives_media` type, or
    nothing under ""), `chunk` that of a stream's events. `query` and `headers` map parameters to their JSON schema;
    `errors` are the statuses it may answer beside 200, with bodies of `error_body`. `events` says whether a stream ends
    in `[DONE]`, or its events have names, or neither. `in_binary`: body and answer may be bytes too.
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
    events: Literal["done", "named", "plain"] = "done"
    needs_body: bool = True
    in_binary: bool = False
    headers: dict[str, dict[str, Any]] | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EndpointGroup:
    """Endpoints whose code is imported when the first request for one of them comes, for a start must not wait for it.

    Attributes:
        module: what has them, as `ENDPOINTS`.
        prefixes: the paths at which and below which they are, and no others.
    """

    module: str
    prefixes: tuple[str, ...]

    def endpoints(self) -> tuple[Endpoint, ...]:
        """They themselves; the first call imports them."""
        return cast("tuple[Endpoint, ...]", import_module(self.module).ENDPOINTS)

    def routes(self) -> Iterator[Route]:
        """Routes that bring a request to them."""
        router = _LateRouter(self)
        for prefix in self.prefixes:
            yield Route(prefix, router)
            yield Route(prefix + "/{rest:path}", router)


class _LateRouter:
    """An ASGI application over a group's endpoints."""

    def __init__(self, group: EndpointGroup) -> None:
        self._group = group

    @cached_property
    def _router(self) -> Router:
        return Router([*routes_of(self._group.endpoints())], redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.pop("route", None)  # metrics name the endpoint, not the way here
        await self._router(scope, receive, send)


def routes_of(endpoints: Iterable[Endpoint]) -> Iterator[Route]:
    """The endpoints under each of their paths."""
    for endpoint in endpoints:
        for path in (endpoint.path, *endpoint.aliases):
            yield Route(path, endpoint.handler, methods=[endpoint.method])
