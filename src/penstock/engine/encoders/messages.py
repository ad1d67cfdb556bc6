"""The messages between an encoder's client and its process; frames as in `engine/wire.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from penstock.engine import wire
from penstock.models.encoder_spec import EncoderSpec

if TYPE_CHECKING:
    import socket


class EncoderConfig(msgspec.Struct, frozen=True, kw_only=True, tag="Load"):
    """First message to the process: what to load."""

    directory: str
    threads: int | None = None  # None: as many as cores the process may use
    memory: int | None = None  # bytes that the weights may take
    max_waiting: int = 4096  # texts in flight before new ones are refused
    max_queue_delay: float = 0.0  # seconds that a text waits for others
    max_length: int | None = None  # tokens of a text; None: what the model says


class Encode(msgspec.Struct, frozen=True, tag=True):
    """Compute the vectors of these texts: for each its token ids and type ids, int32 in the machine's byte order."""

    request_id: int
    token_ids: list[bytes]
    type_ids: list[bytes]
    arrived: float  # time.monotonic(), one clock per machine
    background: bool = False  # compute them while nobody else waits


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Nobody wants this request's answer any more."""

    request_id: int


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded."""

    spec: EncoderSpec
    weight_bytes: int
    runner: dict[str, str]  # as `EngineInfo.runner`


class Encoded(msgspec.Struct, frozen=True, tag=True):
    """A request's vectors, float32 [size] each in the machine's byte order; or why there are none."""

    request_id: int
    vectors: list[bytes]
    error: str | None = None


class Batch(msgspec.Struct, frozen=True, tag=True):
    """One call of the model: how many texts, tokens with and without padding, and seconds that the texts waited."""

    texts: int
    tokens: int
    padded_tokens: int
    seconds: float
    queued: list[float]


ToEncoder = EncoderConfig | Encode | Cancel
FromEncoder = Ready | wire.Failed | Encoded | Batch

_encoder = msgspec.msgpack.Encoder()
to_encoder_decoder = msgspec.msgpack.Decoder(ToEncoder)
from_encoder_decoder = msgspec.msgpack.Decoder(FromEncoder)


def frame(message: ToEncoder | FromEncoder) -> bytes:
    """The bytes of one message on the wire."""
    return wire.framed(_encoder.encode(message))


def receive(sock: socket.socket) -> ToEncoder | None:
    """The next message to the process, or None when the other end has closed."""
    body = wire.receive(sock)
    return None if body is None else to_encoder_decoder.decode(body)
