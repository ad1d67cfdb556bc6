"""Who may come in: API keys, and pages in a browser that must not reach a server without them."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from penstock.core.errors import AuthenticationError
from penstock.server.errors import HEAD_TOO_LARGE, error_response, response_of
from penstock.server.settings import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from penstock.server.settings import ServerSettings

GUARDED = ("http", "websocket")
PROBES = frozenset({"/health", "/ready", "/metrics", "/v2/health/live", "/v2/health/ready"})


class LimitHead:
    """Middleware: path and headers over the limit that came in one piece; what comes in several, HTTP/1.1 refuses."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self.app = app
        self._max_bytes = settings.max_header_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in GUARDED:
            size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
            size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])  # ": " and a line end
            if size > self._max_bytes:
                await error_response(
                    431, HEAD_TOO_LARGE, kind="invalid_request_error", path=scope["path"], code="head_too_large"
                )(scope, receive, send)
                return
        await self.app(scope, receive, send)


class KeyRing:
    """The API keys.

    Args:
        keys: as they were set.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def problem(self, header: str | None, plain_key: str | None = None) -> AuthenticationError | None:
        """What is wrong with a request's `Authorization`, or with its `x-api-key`, as Anthropic's clients send it."""
        if header is None and plain_key is None:
            return AuthenticationError(
                "This server needs an API key. Send it as 'Authorization: Bearer KEY'.", code="missing_api_key"
            )
        scheme, _, key = (header or f"Bearer {plain_key}").partition(" ")
        given = _digest(key.strip())
        # Every key is compared in full, so the time taken tells nothing about any of them.
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        if scheme.lower() == "bearer" and any(matches):
            return None
        return AuthenticationError("The API key is not valid here.", code="invalid_api_key")


class RequireKey:
    """Middleware: everything but the chat page (which asks for the key) and, if so set, the probes needs a key."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self.app = app
        self._keys = KeyRing(settings.api_keys)
        self._open = PROBES if settings.public_probes else frozenset()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in GUARDED and not self._is_open(scope["path"]):
            headers = Headers(scope=scope)
            problem = self._keys.problem(headers.get("authorization"), headers.get("x-api-key"))
            if problem is not None:
                await response_of(problem, scope["path"])(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return path == "/" or path.startswith("/page/") or path in self._open


class LocalPagesOnly:
    """Middleware for a server without keys on loopback: the user's own programs may use it, other people's pages not.

    A page from anywhere can send requests to 127.0.0.1 from the user's browser, under its own Origin, or, having
    pointed its own name there (DNS rebinding), under its own Host. Programs other than browsers send neither.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self.app = app
        self._hosts = frozenset(host.lower() for host in settings.allowed_hosts)
        self._origins = frozenset(origin.rstrip("/").lower() for origin in settings.cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in GUARDED:
            headers = Headers(scope=scope)
            problem = self._problem(headers.get("host", ""), headers.get("origin"))
            if problem is not None:
                response = error_response(
                    403, problem, kind="permission_error", path=scope["path"], code="origin_not_allowed"
                )
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _problem(self, host: str, origin: str | None) -> str | None:
        name = _host_name("//" + host)
        if host and not is_loopback(name) and name not in self._hosts:
            return (
                f"Without an API key this server answers under loopback names only, not "
                f"{name[:256]!r}. Set an API key, "
                "or add the name to allowed_hosts."
            )
        if origin is None or "*" in self._origins or origin.lower() in self._origins:
            return None
        if origin.partition("://")[2].lower() == host.lower():
            return None
        return (
            f"Without an API key this server takes no requests from pages of {origin[:256]!r}. Set an API key, or add "
            "the origin to cors_origins."
        )


def _host_name(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return url


def _digest(key: str) -> bytes:
    """Of equal length for all keys, so that a comparison doesn't tell a key's length either."""
    return hashlib.sha256(key.encode()).digest()
