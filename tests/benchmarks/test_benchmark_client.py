"""The benchmark's client: what it reads out of a stream, however the network cuts it, and what it refuses."""

from __future__ import annotations

import json
import socket
import threading
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from benchmarks.client import Exchange, Post, burst, read_answer
from benchmarks.errors import BenchmarkError
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(payload: Any, newline: bytes = b"\n") -> bytes:
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return b"data: " + text.encode() + newline * 2


def text_event(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish}]}


USAGE = {
    "choices": [],
    "usage": {"prompt_tokens": 130, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 64}},
}


def stream(newline: bytes = b"\n") -> bytes:
    events = [text_event("Grüße"), text_event(" an"), text_event(" 水", "length"), USAGE, "[DONE]"]
    comment = chunk(b": keep-alive" + newline * 2)
    return HEAD + comment + b"".join(chunk(event(e, newline)) for e in events) + b"0\r\n\r\n"


@given(cuts=st.sets(st.integers(1, len(stream()) - 1)), newline=st.sampled_from([b"\n", b"\r\n"]))
def test_a_stream_reads_the_same_however_it_is_cut(cuts: set[int], newline: bytes) -> None:
    whole = stream(newline)
    edges = [0, *sorted(cuts), len(whole)]
    reads = [(float(i), whole[a:b]) for i, (a, b) in enumerate(pairwise(edges))]
    answer = read_answer(-1.0, reads)
    assert answer.text == "Grüße an 水"
    assert (answer.finish_reason, answer.tokens, answer.prompt_tokens, answer.cached_tokens) == ("length", 3, 130, 64)
    assert len(answer.arrivals) == 3
    assert list(answer.arrivals) == sorted(answer.arrivals)


def test_a_piece_of_text_arrives_with_the_read_that_completes_it() -> None:
    first, second, rest = event(text_event("a")), event(text_event("b", "length")), event("[DONE]")
    reads = [
        (1.0, HEAD),
        (2.0, chunk(first)[:5]),
        (3.0, chunk(first)[5:] + chunk(second)[:-4]),
        (4.0, chunk(second)[-4:]),
        (5.0, chunk(rest) + b"0\r\n\r\n"),
    ]
    answer = read_answer(0.5, reads)
    assert answer.arrivals == (3.0, 4.0)
    assert answer.ttft == 2.5
    assert answer.duration == 3.5
    assert answer.gaps == [1.0]


def test_chat_chunks_and_an_unchunked_body_are_read_too() -> None:
    payloads = [
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"delta": {"content": "hi"}}]},
        {"choices": [{"delta": {}, "finish_reason": "length"}]},
    ]
    body = b"".join(map(event, payloads)) + event("[DONE]")
    answer = read_answer(0.0, [(1.0, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)])
    assert (answer.text, answer.finish_reason, answer.tokens) == ("hi", "length", 0)


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"", "without an answer"),
        (b"HTTP/1.1 200 OK\r\n", "without an answer"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" + b'{"error": "no such field"}', "no such field"),
        (HEAD + chunk(event(text_event("a"))), "ended early"),
        (HEAD + chunk(event("[DONE]")), "no text"),
        (HEAD + chunk(event({"error": {"message": "engine died"}})), "engine died"),
    ],
)
def test_anything_but_a_whole_answer_is_refused(raw: bytes, complaint: str) -> None:
    with pytest.raises(BenchmarkError, match=complaint):
        read_answer(0.0, [(1.0, raw)] if raw else [])


@pytest.fixture
def serve() -> Iterator[Callable[[bytes, int], int]]:
    """`serve(answer, connections)` listens, sends `answer` to each connection, and gives its port."""
    threads: list[threading.Thread] = []

    def start(answer: bytes, connections: int) -> int:
        listener = socket.create_server(("127.0.0.1", 0))

        def run() -> None:
            with listener:
                open_ones = [listener.accept()[0] for _ in range(connections)]  # nobody is answered before all are here
                for connection in open_ones:
                    with connection:
                        received = b""
                        while b"\r\n\r\n" not in received or not received.endswith(b"}"):
                            received += connection.recv(65536)
                        connection.sendall(answer)

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return int(listener.getsockname()[1])

    yield start
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()


def test_a_burst_has_all_its_requests_open_at_once(serve: Callable[[bytes, int], int]) -> None:
    port = serve(stream(), 8)
    answers = burst([Post("127.0.0.1", port, "/v1/completions", {"n": number}) for number in range(8)])
    assert [answer.text for answer in answers] == ["Grüße an 水"] * 8
    assert all(answer.ttft > 0 for answer in answers)


async def wait_for_milestone(exchange: Exchange, milestone: int) -> None:
    await exchange.send(milestone=milestone)
    await exchange.reached()
    await exchange.finish()


@pytest.mark.parametrize("milestone", [1, 1_000_000])
def test_a_milestone_is_reached_by_reads_or_by_the_end(serve: Callable[[bytes, int], int], milestone: int) -> None:
    import asyncio

    exchange = Exchange(Post("127.0.0.1", serve(stream(), 1), "/v1/completions", {}))
    asyncio.run(asyncio.wait_for(wait_for_milestone(exchange, milestone), timeout=30))
    assert exchange.answer().text == "Grüße an 水"
