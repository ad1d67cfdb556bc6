"""A streaming HTTP client that costs next to nothing while the clock runs.

It shares the cores with the server it measures, so during a run it only notes when bytes arrived; HTTP and
server-sent events are taken apart afterwards.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from benchmarks.errors import BenchmarkError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Read = tuple[float, bytes]  # time.monotonic(), what the socket gave


@dataclass(frozen=True, slots=True)
class Answer:
    """One streamed completion. Times are time.monotonic() seconds, the same clock in all processes."""

    sent: float
    arrivals: tuple[float, ...]  # of each piece of text that wasn't empty
    tokens: int  # generated; 0: not told
    text: str
    finish_reason: str | None
    prompt_tokens: int | None = None  # as the peer counted them, if it told
    cached_tokens: int | None = None

    @property
    def ttft(self) -> float:
        return self.arrivals[0] - self.sent

    @property
    def duration(self) -> float:
        return self.arrivals[-1] - self.sent

    @property
    def tpot(self) -> float:
        """Mean time per token after the first."""
        return (self.arrivals[-1] - self.arrivals[0]) / (self.tokens - 1)

    @property
    def gaps(self) -> list[float]:
        """Times between successive pieces of text: what a reader waits."""
        return [after - before for before, after in pairwise(self.arrivals)]


@dataclass(frozen=True, slots=True)
class Post:
    """A request to make."""

    host: str
    port: int
    path: str
    body: dict[str, Any]

    def encode(self) -> bytes:
        body = json.dumps(self.body).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + body


class _Wire(asyncio.Protocol):
    """Sends one request and notes every read until the server closes."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.reads: list[Read] = []
        self.closed = asyncio.get_running_loop().create_future()
        self.milestone = asyncio.Event()  # `milestone_at` reads, or the end
        self.milestone_at = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.reads.append((time.monotonic(), data))
        if len(self.reads) == self.milestone_at:
            self.milestone.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.milestone.set()
        if not self.closed.done():
            self.closed.set_result(exc)


class Exchange:
    """One request on its way: `send()`, then `finish()`, then `answer()`."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self.sent = 0.0

    async def send(self, *, milestone: int = 0) -> None:
        """Connect and send. The connection counts as waiting, as it does for a user.

        `reached()` returns after the `milestone`-th time that something arrived.
        """
        request = self._post.encode()
        loop = asyncio.get_running_loop()
        self.sent = time.monotonic()
        self._transport, self._protocol = await loop.create_connection(
            lambda: _Wire(request), self._post.host, self._post.port
        )
        self._protocol.milestone_at = milestone

    async def reached(self) -> None:
        await self._protocol.milestone.wait()

    async def finish(self) -> None:
        """Wait for the server to close."""
        try:
            error = await self._protocol.closed
        finally:
            self._transport.abort()
        if error:
            raise BenchmarkError(f"The connection to {self._post.path} broke: {error}.")

    def answer(self) -> Answer:
        return read_answer(self.sent, self._protocol.reads)


def burst(posts: Sequence[Post]) -> list[Answer]:
    """All requests at once; their answers in the same order."""
    exchanges = [Exchange(post) for post in posts]

    async def run(exchange: Exchange) -> None:
        await exchange.send()
        await exchange.finish()

    async def all_at_once() -> None:
        await asyncio.gather(*(run(exchange) for exchange in exchanges))

    gc.disable()  # a collection in the middle would look like a slow token
    try:
        asyncio.run(all_at_once())
    finally:
        gc.enable()
    return [exchange.answer() for exchange in exchanges]


def read_answer(sent: float, reads: Sequence[Read]) -> Answer:
    """Put a stream of completion or chat chunks together. Raises BenchmarkError unless it is a whole 200."""
    arrivals: list[float] = []
    pieces: list[str] = []
    finish: str | None = None
    usage: dict[str, Any] = {}
    done = False
    for when, data in _events(_body(reads)):
        if data == "[DONE]":
            done = True
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            raise BenchmarkError(f"The stream holds an error: {chunk['error']}")
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices", ()):
            finish = choice.get("finish_reason") or finish
            if piece := choice.get("text") or choice.get("delta", {}).get("content"):
                arrivals.append(when)
                pieces.append(piece)
    if not done or not arrivals:
        raise BenchmarkError("The stream ended early." if arrivals else "The stream held no text.")
    details = usage.get("prompt_tokens_details") or {}
    return Answer(
        sent=sent,
        arrivals=tuple(arrivals),
        tokens=usage.get("completion_tokens", 0),
        text="".join(pieces),
        finish_reason=finish,
        prompt_tokens=usage.get("prompt_tokens"),
        cached_tokens=details.get("cached_tokens"),
    )


def _body(reads: Sequence[Read]) -> Iterator[Read]:
    """The response's body as it arrived, chunk framing removed. Raises BenchmarkError unless the status is 200."""
    head, used = b"", 0
    while b"\r\n\r\n" not in head:
        if used == len(reads):
            raise BenchmarkError("The server closed the connection without an answer.")
        head += reads[used][1]
        used += 1
    top, _, begun = head.partition(b"\r\n\r\n")
    status = top.split(b" ", 2)[1]
    body = [(reads[used - 1][0], begun), *reads[used:]]
    if status != b"200":
        said = b"".join(data for _, data in body)[:2000].decode(errors="replace")
        raise BenchmarkError(f"The server answered {status.decode()}: {said}")
    yield from _dechunk(body) if b"transfer-encoding: chunked" in top.lower() else body


def _dechunk(reads: Sequence[Read]) -> Iterator[Read]:
    """Undo RFC 9112's chunked transfer coding; each chunk gets the time of the read that completed it."""
    buffer = b""
    for when, data in reads:
        buffer += data
        while b"\r\n" in buffer:
            size_line, _, rest = buffer.partition(b"\r\n")
            size = int(size_line.partition(b";")[0], 16)
            if len(rest) < size + 2:
                break
            yield when, rest[:size]
            buffer = rest[size + 2 :]


def _events(body: Iterator[Read]) -> Iterator[tuple[float, str]]:
    """Data of each server-sent event that carries any, with the time of the read that completed it."""
    buffer = b""
    for when, data in body:
        buffer = (buffer + data).replace(b"\r\n", b"\n")
        while b"\n\n" in buffer:
            event, _, buffer = buffer.partition(b"\n\n")
            lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
            if lines:
                yield when, b"\n".join(lines).decode()
