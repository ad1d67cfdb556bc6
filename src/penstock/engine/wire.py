"""The messages between the engine client and the engine core, and how they cross the socket.

A frame is a little-endian uint32 length and that many bytes of MessagePack. One message a frame; the
struct's tag says which. Both ends are ours and of one version, so there is no negotiation.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import msgspec

from penstock.core import errors
from penstock.core.errors import PenstockError
from penstock.engine.config import EngineConfig, EngineInfo, EngineStats
from penstock.engine.types import AdapterInfo, Request, RequestOutput
from penstock.models.spec import ModelSpec

if TYPE_CHECKING:
    import asyncio
    import socket

MAX_FRAME = 1 << 30  # a corrupted length must not become an allocation


class Start(msgspec.Struct, frozen=True, tag=True):
    """First message to a core: what to load."""

    config: EngineConfig


class Add(msgspec.Struct, frozen=True, tag=True):
    """Take this request."""

    request: Request


class Abort(msgspec.Struct, frozen=True, tag=True):
    """Forget these requests and free their blocks; unknown ones are ignored."""

    request_ids: list[str]


class LoadAdapter(msgspec.Struct, frozen=True, tag=True):
    """Bring an adapter into memory; `AdapterLoaded` or `AdapterFailed` answers."""

    name: str
    path: str


class UnloadAdapter(msgspec.Struct, frozen=True, tag=True):
    """Take no more requests for an adapter; one that isn't there is ignored."""

    name: str


class AdapterLoaded(msgspec.Struct, frozen=True, tag=True):
    """Requests may ask for the adapter."""

    info: AdapterInfo


class AdapterFailed(msgspec.Struct, frozen=True, tag=True):
    """An adapter could not be loaded. `error_type` names a class of core.errors."""

    name: str
    error_type: str
    message: str
    param: str | None = None
    code: str | None = None


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The core is up."""

    spec: ModelSpec
    info: EngineInfo


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The core could not start; it ends after this. `error_type` names a class of core.errors."""

    error_type: str
    message: str
    param: str | None = None  # the setting at fault


class Outputs(msgspec.Struct, frozen=True, tag=True):
    """What one step produced, and the counters after it."""

    outputs: list[RequestOutput]
    stats: EngineStats


ToCore = Start | Add | Abort | LoadAdapter | UnloadAdapter
FromCore = Ready | Failed | Outputs | AdapterLoaded | AdapterFailed

_LENGTH = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()
to_core_decoder = msgspec.msgpack.Decoder(ToCore)
from_core_decoder = msgspec.msgpack.Decoder(FromCore)


def frame(message: ToCore | FromCore) -> bytes:
    """The bytes of one message on the wire."""
    return framed(_encoder.encode(message))


def error_class(name: str) -> type[PenstockError]:
    """The class that an `error_type` names."""
    found = getattr(errors, name, PenstockError)
    return found if isinstance(found, type) and issubclass(found, PenstockError) else PenstockError


def framed(body: bytes) -> bytes:
    """A message's bytes with their length before them."""
    return _LENGTH.pack(len(body)) + body


def _checked(length: int) -> int:
    if length > MAX_FRAME:
        raise ConnectionError(f"a frame of {length} bytes was announced; the limit is {MAX_FRAME}")
    return length


def receive(sock: socket.socket) -> bytes | None:
    """One frame's body from a blocking socket, or None when the other end has closed."""
    header = _receive_exactly(sock, _LENGTH.size)
    if header is None:
        return None
    return _receive_exactly(sock, _checked(_LENGTH.unpack(header)[0]))


def _receive_exactly(sock: socket.socket, size: int) -> bytes | None:
    data = bytearray(size)
    view = memoryview(data)
    filled = 0
    while filled < size:
        got = sock.recv_into(view[filled:])
        if got == 0:
            return None
        filled += got
    return bytes(data)


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """One frame's body. Raises asyncio.IncompleteReadError when the other end has closed."""
    header = await reader.readexactly(_LENGTH.size)
    return await reader.readexactly(_checked(_LENGTH.unpack(header)[0]))
