"""A server that says what a test tells it to, for what a real engine can't be made to do on demand.

It speaks the part of the API that the chat page uses, keeps the bodies it got, and serves the page itself.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import penstock.server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.types import Message, Receive, Scope, Send


PAGE = Path(penstock.server.__file__).parent / "page"

# As strict as a policy for a page without outside resources can be: what it forbids must not be needed.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)

USAGE = {
    "prompt_tokens": 36,
    "completion_tokens": 5,
    "total_tokens": 41,
    "prompt_tokens_details": {"cached_tokens": 32},
}


@dataclass
class Reply:
    """One answer to POST /v1/chat/completions."""

    pieces: tuple[str, ...] = ("Hello", " from", " the", " script", ".")
    thoughts: tuple[str, ...] = ()  # before the pieces
    finish: str = "stop"
    usage: dict[str, Any] | None = None
    status: int = 200
    error: str | None = None  # with status 200, an error in mid-stream
    hold: bool = False  # after the pieces, wait until the test releases it or the client goes
    pause: float = 0.0  # seconds between pieces
    cut: bool = False  # end without finish_reason and [DONE]


class ScriptedApi:
    """Answers from `replies`, one after another, the last one again and again."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = deque(replies or (Reply(),))
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.key: str | None = None
        self.unready: str | None = None  # a reason makes /ready answer 503
        self.models = [{"id": "scripted-1B", "object": "model", "created": 0, "owned_by": "tests"}]
        self.metrics = (
            "# TYPE penstock_kv_blocks gauge\n"
            'penstock_kv_blocks{model="tiny"} 100.0\n'
            'penstock_kv_blocks_used{model="tiny"} 42.0\n'
            "penstock_requests_running 3.0\n"
            "penstock_requests_waiting 1.0\n"
        )
        self.client_left = threading.Event()
        self._release = asyncio.Event()
        self.app = Starlette(
            routes=[
                Route("/", self._index),
                Mount("/page", StaticFiles(directory=PAGE)),
                Route("/ready", self._ready),
                Route("/v1/models", self._models),
                Route("/version", self._version),
                Route("/metrics", self._metrics),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    def release(self) -> None:
        """Let a held reply end; to be called in the server's thread."""
        self._release.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"content-security-policy", POLICY.encode()))
            await send(message)

        if scope["type"] == "http":
            self.paths.append(scope["path"])
        await self.app(scope, receive, send_with_policy)

    async def _index(self, request: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    async def _ready(self, request: Request) -> Response:
        if not self._is_let_in(request):
            return _error(401, "This server asks for an API key.")
        return JSONResponse({}) if self.unready is None else _error(503, self.unready)

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": self.models})

    async def _version(self, request: Request) -> Response:
        return JSONResponse({"version": "9.9.9"})

    async def _metrics(self, request: Request) -> Response:
        return PlainTextResponse(self.metrics)

    async def _chat(self, request: Request) -> Response:
        self.bodies.append(await request.json())
        reply = self.replies.popleft() if len(self.replies) > 1 else self.replies[0]
        if not self._is_let_in(request):
            return _error(401, "This server asks for an API key.")
        if reply.status != 200:
            return _error(reply.status, reply.error or "Refused.")
        self._release.clear()
        return StreamingResponse(self._stream(reply), media_type="text/event-stream")

    def _is_let_in(self, request: Request) -> bool:
        return self.key is None or request.headers.get("authorization") == f"Bearer {self.key}"

    async def _stream(self, reply: Reply) -> AsyncIterator[str]:
        ended = False
        try:
            yield ": a comment, as sent while a long prompt is read\n\n"
            yield _event(_chunk({"role": "assistant", "content": ""}))
            for thought in reply.thoughts:
                yield _event(_chunk({"reasoning_content": thought, "reasoning": thought}))
            for piece in reply.pieces:
                yield _event(_chunk({"content": piece}))
                await asyncio.sleep(reply.pause)
            if reply.hold:
                await self._release.wait()
            if reply.error:
                yield _event({"error": {"message": reply.error, "type": "internal_error", "param": None, "code": None}})
            if not reply.cut and not reply.error:
                yield _event(_chunk({}, reply.finish))
                yield _event({**_chunk({}), "choices": [], "usage": reply.usage or USAGE})
                yield "data: [DONE]\n\n"
            ended = True
        finally:
            if not ended:
                self.client_left.set()


def _chunk(delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": "x", "choices": [choice]}


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


def _error(status: int, message: str) -> Response:
    body = {"error": {"message": message, "type": "scripted", "param": None, "code": None}}
    return JSONResponse(body, status)
