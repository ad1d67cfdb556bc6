"""The ASGI application over one engine."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Route

from penstock.core.errors import PenstockError
from penstock.server.errors import KSERVE, UnexpectedErrors, on_http_error, on_penstock_error
from penstock.server.guards import PROBES, LimitHead, LocalPagesOnly, RequireKey
from penstock.server.kserve.mount import KServeMount
from penstock.server.observe import CountRequests
from penstock.server.routes import ENDPOINTS
from penstock.server.service import Service
from penstock.server.static import Page

if TYPE_CHECKING:
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
    service = Service(models, settings, observer)
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
            *(Route(endpoint.path, endpoint.handler, methods=[endpoint.method]) for endpoint in ENDPOINTS),
            Route(KSERVE, kserve),
            Route(KSERVE + "/{rest:path}", kserve),
            Route("/openapi.json", openapi),
            Route("/", page.index),
            Route("/page/{name:path}", page.file),
        ],
        middleware=_middleware(observer, settings),
        exception_handlers={PenstockError: on_penstock_error, HTTPException: on_http_error},
    )
    app.router.redirect_slashes = False  # a wrong path is a 404 that says so, not a detour
    app.state.service = service
    app.state.kserve = kserve
    return app


def _middleware(observer: Observer, settings: ServerSettings) -> list[Middleware]:
    """Outermost first: errors are counted, and bear the headers that let a page read them."""
    stack = [Middleware(CountRequests, observer=observer)]
    if settings.cors_origins:
        stack.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST"],
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
