"""Requests that the server makes to itself: the same endpoints, errors and limits, without a socket."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Message, Scope


@dataclass(slots=True)
class InsideAnswer:
    """What came back."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def is_stream(self) -> bool:
        """Whether it is a stream of events."""
        return self.headers.get("content-type", "").startswith("text/event-stream")


async def post(
    app: ASGIApp, path: str, body: bytes, *, on_event: Callable[[bytes], Awaitable[None]] | None = None
) -> InsideAnswer:
    """The answer to a POST. Cancel it to hang up.

    Args:
        app: what answers.
        path: of the endpoint.
        body: JSON.
        on_event: gets the pieces of a stream as they come; they are then not part of the answer's body.
    """
    answer = InsideAnswer()
    pieces: list[bytes] = []
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            await asyncio.Event().wait()  # whoever hangs up cancels
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
        elif on_event is not None and answer.is_stream:
            if message.get("body"):
                await on_event(message["body"])
        else:
            pieces.append(message.get("body", b""))

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
        "client": None,
        "server": None,
    }
    await app(scope, receive, send)
    answer.body = b"".join(pieces)
    return answer
