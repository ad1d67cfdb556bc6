"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) as an answer."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response

from penstock.core.errors import PenstockError
from penstock.server.errors import body_of, internal_error
from penstock.server.hangup import while_connected

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from starlette.types import Receive, Scope, Send

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
_encode = msgspec.json.Encoder().encode


def event(body: msgspec.Struct | dict[str, Any]) -> bytes:
    """One event whose data is `body` as JSON, which holds no line ends."""
    return b"data: %b\n\n" % _encode(body)


def named_event(name: str, body: msgspec.Struct) -> bytes:
    """One event that has a name of its own, as in OpenAI's Responses and Anthropic's Messages."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(body))


def failure(error: PenstockError) -> bytes:
    """The last event of a stream that failed, in OpenAI's shape."""
    return event(body_of(error))


class EventStream(Response):
    """Sends events as they come, comments while none do, and stops making them when the client hangs up.

    The status is sent with the first bytes: an error before them is an answer of its own, an error after them is
    the last event. A stream that failed does not end in [DONE].

    Args:
        events: whole events; it is closed when the client hangs up.
        headers: beside those of every event stream.
        keepalive_seconds: how often a comment is sent, until the events end.
        failure: writes an error as an event.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        headers: Mapping[str, str],
        keepalive_seconds: float,
        failure: Callable[[PenstockError], bytes] = failure,
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        del self.headers["content-length"]
        self._events = events
        self._keepalive_seconds = keepalive_seconds
        self._failure = failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        writer = _Writer(self, send)
        await while_connected(receive, self._send_all(writer), every=self._keepalive_seconds, beat=writer.keep_alive)

    async def _send_all(self, writer: _Writer) -> None:
        try:
            async with aclosing(self._events) as events:
                async for payload in events:
                    await writer.write(payload)
        except PenstockError as error:
            if not writer.started:
                raise
            await writer.write(self._failure(error))
        except Exception as cause:
            if not writer.started:
                raise
            await writer.write(self._failure(internal_error(cause)))
        await writer.end()


class _Writer:
    """The answer's one way out; the lock keeps comments between events."""

    def __init__(self, response: EventStream, send: Send) -> None:
        self._response = response
        self._send = send
        self._lock = asyncio.Lock()
        self._ended = False
        self.started = False

    async def write(self, payload: bytes, *, more: bool = True) -> None:
        async with self._lock:
            if self._ended:
                return
            if not self.started:
                self.started = True
                start = {"type": "http.response.start", "status": 200, "headers": self._response.raw_headers}
                await self._send(start)
            self._ended = not more
            await self._send({"type": "http.response.body", "body": payload, "more_body": more})

    async def keep_alive(self) -> None:
        await self.write(KEEP_ALIVE)

    async def end(self) -> None:
        await self.write(b"", more=False)
