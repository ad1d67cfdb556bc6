"""uvicorn's WebSocket protocol and the endpoint over it, both imported when the first connection asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import asyncio

    from starlette.types import Message
    from starlette.websockets import WebSocket

OVERHEAD_BYTES = 4096  # of a frame beyond the body that it carries


def websocket_protocol(**arguments: Any) -> asyncio.Protocol:
    """uvicorn's protocol for one connection."""
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

    protocol: Any = WebSocketsSansIOProtocol(**arguments)
    send = protocol.send

    async def send_and_note(message: Message) -> None:
        """A handshake that is refused with an answer has ended; uvicorn would log an error for each."""
        await send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            protocol.handshake_complete = True

    protocol.send = send_and_note
    return cast("asyncio.Protocol", protocol)


async def stream(socket: WebSocket) -> None:
    """The endpoint, `websocket.stream`."""
    from penstock.server.websocket import stream

    await stream(socket)
