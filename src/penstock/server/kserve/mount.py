"""The protocol in an application: made when the first client asks for it, for a start must not wait for it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.routing import Router
    from starlette.types import Receive, Scope, Send

    from penstock.server.kserve.protocol import KServe
    from penstock.server.service import Service


class KServeMount:
    """An ASGI application for every path below /v2.

    Args:
        service: what the server's other endpoints work on.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    @cached_property
    def kserve(self) -> KServe:
        """The protocol, which gRPC shares."""
        from penstock.server.kserve.protocol import KServe

        return KServe(self._service)

    @cached_property
    def _router(self) -> Router:
        from penstock.server.kserve.routes import router

        return router()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._router(scope, receive, send)
