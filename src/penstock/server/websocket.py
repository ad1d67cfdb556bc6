"""GET /v1/stream as a WebSocket (RFC 6455): many requests over one connection, each with its own end.

The client sends requests and cancellations, the server the same events as over HTTP, each under the request's id:

    {"type": "request", "id": "1", "endpoint": "/v1/chat/completions", "body": {..., "stream": true}}
    {"type": "cancel", "id": "1"}

    {"type": "event", "id": "1", "data": {...}}                     one event of a stream
    {"type": "response", "id": "1", "status": 200, "body": {...}}   a whole answer
    {"type": "error", "id": "1", "status": 400, "error": {...}}     instead of either, or in the midst of a stream
    {"type": "done", "id": "1", "cancelled": false}                 always the last of an id, which is then free again

Fields of a body that had no effect are in `ignored_fields` of "done", as in HTTP's header.

What isn't JSON ends the connection with code 1007, what is binary with 1003, what is too large with 1009.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.websockets import WebSocketDisconnect

from penstock.core.errors import InvalidRequestError, NotFoundError, OverloadedError, PenstockError
from penstock.server.body import IGNORED_FIELDS, explain
from penstock.server.errors import body_of
from penstock.server.inside import post

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.websockets import WebSocket

    from penstock.server.inside import InsideAnswer
    from penstock.server.service import Service

MOST_REQUESTS = 128  # in flight over one connection
NOT_JSON, NOT_TEXT = 1007, 1003

WEBSOCKET_ENDPOINTS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
        "/v1/rerank",
        "/rerank",
        "/v1/score",
        "/score",
        "/classify",
        "/tokenize",
        "/detokenize",
    }
)

RequestName = Annotated[str, Meta(min_length=1, max_length=256)]


class RequestFrame(Struct, tag_field="type", tag="request", kw_only=True, forbid_unknown_fields=True):
    """Begin a request."""

    id: RequestName
    endpoint: str
    body: msgspec.Raw


class CancelFrame(Struct, tag_field="type", tag="cancel", kw_only=True, forbid_unknown_fields=True):
    """End a request; one that has ended already is let be."""

    id: RequestName


class AnswerFrame(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the server sends."""

    type: Literal["event", "response", "error", "done"]
    id: str | None
    status: int | UnsetType = UNSET
    data: msgspec.Raw | UnsetType = UNSET
    body: msgspec.Raw | UnsetType = UNSET
    error: Any = UNSET
    cancelled: bool | UnsetType = UNSET
    ignored_fields: str | UnsetType = UNSET


_decode = msgspec.json.Decoder(RequestFrame | CancelFrame).decode
_encode = msgspec.json.Encoder().encode


async def stream(socket: WebSocket) -> None:
    """Serve one connection until either side closes it; what is in flight then is aborted."""
    service: Service = socket.app.state.service
    await socket.accept()
    connection = _Connection(socket, service.inside)
    try:
        await connection.serve()
    except WebSocketDisconnect:
        pass  # the client has gone, which is how connections end
    finally:
        await connection.close()


class _Connection:
    def __init__(self, socket: WebSocket, inside: Starlette) -> None:
        self._socket = socket
        self._inside = inside
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._sending = asyncio.Lock()  # the transport takes one message at a time

    async def serve(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            if text is None:
                await self._socket.close(NOT_TEXT, "Frames are JSON in text, not binary.")
                return
            try:
                frame = _decode(text)
            except msgspec.ValidationError as error:
                await self._refuse(_name_in(text), _explain(str(error)))
            except (msgspec.DecodeError, RecursionError) as error:
                await self._socket.close(NOT_JSON, f"The frame is not JSON: {error}."[:100])
                return
            else:
                await self._take(frame)

    async def close(self) -> None:
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self, frame: RequestFrame | CancelFrame) -> None:
        if isinstance(frame, CancelFrame):
            task = self._tasks.get(frame.id)
            if task is not None:
                task.cancel()
            return
        problem: PenstockError | None = None
        if frame.id in self._tasks:
            message = f"A request with the id {frame.id!r} is still running over this connection."
            problem = InvalidRequestError(message, param="id", code="duplicate_request_id")
        elif frame.endpoint not in WEBSOCKET_ENDPOINTS:
            known = ", ".join(sorted(WEBSOCKET_ENDPOINTS))
            message = f"'endpoint' is {frame.endpoint[:128]!r}; over this connection there are {known}."
            problem = NotFoundError(message, param="endpoint", code="invalid_endpoint")
        elif len(self._tasks) >= MOST_REQUESTS:
            message = f"{MOST_REQUESTS} requests are in flight over this connection. Wait for one, or open another."
            problem = OverloadedError(message, code="too_many_requests")
        if problem is not None:
            await self._refuse(frame.id, problem, ends=frame.id not in self._tasks)
            return
        self._tasks[frame.id] = asyncio.create_task(self._run(frame))
        await asyncio.sleep(0)  # it begins now: what is cancelled before it has begun would end without a word

    async def _run(self, frame: RequestFrame) -> None:
        name = frame.id
        stream = _EventReader()

        async def on_event(piece: bytes) -> None:
            for data in stream.push(piece):
                error = _error_in(data) if b'"error"' in data else None
                if error is None:
                    await self._send(AnswerFrame(type="event", id=name, data=msgspec.Raw(data)))
                else:
                    await self._send(AnswerFrame(type="error", id=name, error=error))

        cancelled = False
        ignored: str | UnsetType = UNSET
        try:
            answer = await post(self._inside, frame.endpoint, bytes(frame.body), on_event=on_event)
            if not answer.is_stream:
                frame_of = _response if answer.status == OK else _error
                await self._send(frame_of(name, answer))
            ignored = answer.headers.get(IGNORED_FIELDS, UNSET)
        except asyncio.CancelledError:
            cancelled = True
        except (WebSocketDisconnect, RuntimeError):
            return  # nobody is there to be told
        finally:
            self._tasks.pop(name, None)
        await self._send(AnswerFrame(type="done", id=name, cancelled=cancelled, ignored_fields=ignored))

    async def _refuse(self, name: str | None, error: PenstockError, *, ends: bool = True) -> None:
        detail = body_of(error).error
        await self._send(AnswerFrame(type="error", id=name, status=error.http_status, error=detail))
        if ends and name is not None:
            await self._send(AnswerFrame(type="done", id=name, cancelled=False))

    async def _send(self, frame: AnswerFrame) -> None:
        async with self._sending:
            await self._socket.send_text(_encode(frame).decode())


OK = 200


def _response(name: str, answer: InsideAnswer) -> AnswerFrame:
    return AnswerFrame(type="response", id=name, status=answer.status, body=msgspec.Raw(answer.body))


def _error(name: str, answer: InsideAnswer) -> AnswerFrame:
    return AnswerFrame(type="error", id=name, status=answer.status, error=msgspec.json.decode(answer.body)["error"])


class _EventReader:
    """The data of server-sent events, from the pieces in which they are sent."""

    def __init__(self) -> None:
        self._rest = b""

    def push(self, piece: bytes) -> list[bytes]:
        """The JSON of each event that this completes; comments and the end mark have none."""
        *events, self._rest = (self._rest + piece).split(b"\n\n")
        lines = (line for event in events for line in event.split(b"\n"))
        found = (line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: "))
        return [data for data in found if data != b"[DONE]"]


class _MaybeError(Struct):
    error: Any = None
    type: str | None = None


_read_error = msgspec.json.Decoder(_MaybeError).decode


def _error_in(data: bytes) -> Any:
    """The error that a stream ended with, if this event is one: in OpenAI's shape or in Anthropic's."""
    event = _read_error(data)
    return event.error if event.type in (None, "error") else None


def _explain(complaint: str) -> InvalidRequestError:
    """What is wrong with a frame, from msgspec's sentence."""
    complaint = complaint.replace("Invalid value '", "Invalid enum value '")  # of the field that tells frames apart
    error = explain(complaint, _FrameTypes, whole="The frame")
    return InvalidRequestError(error.message, param=error.param, code="invalid_frame")


class _FrameTypes(Struct):
    type: Literal["request", "cancel"]


def _name_in(text: str) -> str | None:
    """The id of a frame that is wrong otherwise."""
    try:
        name = msgspec.json.decode(text, type=dict[str, Any]).get("id")
    except msgspec.DecodeError:
        return None
    return name[:256] if isinstance(name, str) else None
