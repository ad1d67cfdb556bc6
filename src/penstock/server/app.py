"""The ASGI application over one engine."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from penstock.core.errors import PenstockError
from penstock.server.endpoint import routes_of
from penstock.server.errors import KSERVE, WEBSOCKET, UnexpectedErrors, on_http_error, on_penstock_error
from penstock.server.guards import PROBES, LimitHead, LocalPagesOnly, RequireKey
from penstock.server.kserve.mount import KServeMount
from penstock.server.observe import CountRequests
from penstock.server.routes import GROUPS, READY_ENDPOINTS
from penstock.server.service import Service
from penstock.server.static import Page
from penstock.server.websocket_protocol import stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager

    from starlette.requests import Request

    from penstock.server.observe import Observer
    from penstock.server.registry import ModelRegistry
    from penstock.server.settings import ServerSettings


def build_app(models: ModelRegistry, settings: ServerSettings, observer: Observer) -> Starlette:
    """The application; several of them, each over its own models, may live in one process.

    Args:
        models: what is served; closed by the caller.
        settings: keys, origins and limits.
        observer: where requests are counted.
    """
    page = Page()
    handlers = {PenstockError: on_penstock_error, HTTPException: on_http_error}
    endpoints = [*routes_of(READY_ENDPOINTS), *(route for group in GROUPS for route in group.routes())]
    inside = Starlette(routes=endpoints, middleware=[Middleware(UnexpectedErrors)], exception_handlers=handlers)
    service = Service(models, settings, observer, inside)
    kserve = KServeMount(service)

    @cache
    def document() -> bytes:
        from penstock.server.openapi import openapi_document

        public = PROBES if settings.public_probes else frozenset()
        return msgspec.json.encode(openapi_document(needs_key=bool(settings.api_keys), public_paths=public))

    async def openapi(_http: Request) -> Response:
        return Response(document(), media_type="application/json")

    app = Starlette(
        routes=[
            *endpoints,
            Route(KSERVE, kserve),
            Route(KSERVE + "/{rest:path}", kserve),
            Route("/openapi.json", openapi),
            WebSocketRoute(WEBSOCKET, stream),
            Route("/", page.index),
            Route("/page/{name:path}", page.file),
        ],
        middleware=_middleware(observer, settings),
        exception_handlers=handlers,
        lifespan=_lifespan(service),
    )
    app.router.redirect_slashes = False  # a wrong path is a 404 that says so, not a detour
    app.state.service = inside.state.service = service
    app.state.kserve = kserve
    return app


def _lifespan(service: Service) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """Takes up unfinished work at the start, beside the first requests, and leaves it at the end."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        resuming = asyncio.create_task(service.resume())
        try:
            yield
        finally:
            resuming.cancel()
            await asyncio.gather(resuming, return_exceptions=True)
            await service.close()

    return lifespan


def _middleware(observer: Observer, settings: ServerSettings) -> list[Middleware]:
    """Outermost first: errors are counted, and bear the headers that let a page read them."""
    stack = [Middleware(CountRequests, observer=observer)]
    if settings.cors_origins:
        stack.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],
                expose_headers=["x-request-id", "x-penstock-ignored-fields", "retry-after"],
            )
        )
    stack += [Middleware(UnexpectedErrors), Middleware(LimitHead, settings=settings)]
    if settings.api_keys:
        stack.append(Middleware(RequireKey, settings=settings))
    elif settings.uds is None:  # no browser reaches a Unix socket
        stack.append(Middleware(LocalPagesOnly, settings=settings))
    return stack
