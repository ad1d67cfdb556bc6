"""Connections over real sockets: hang-ups, slow readers, silence, failures in mid-stream, limits."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from penstock.core.errors import PenstockError
from support.asking import CHAT, COMPLETIONS, error_of, events
from support.eventually import eventually
from support.fake_engine import FakeEngine
from support.listening import client_of, listening

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import httpx

ENDLESS = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0, "ignore_eos": True}
SHORT = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 4}


def over_http(engine: FakeEngine, work: Callable[[httpx.AsyncClient], Awaitable[Any]], **settings: Any) -> Any:
    """Run `work(client)` against the engine served on a socket."""

    async def run() -> Any:
        async with client_of(engine, **settings) as client:
            return await asyncio.wait_for(work(client), 30)

    return asyncio.run(run())


async def raw_request(url: str, head: str, body: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection of its own, with this much sent."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.replace("\n", "\r\n").encode() + body)
    await writer.drain()
    return reader, writer


def test_a_client_that_hangs_up_in_mid_stream_frees_its_sequences(echo_model: Path) -> None:
    engine = FakeEngine(echo_model, held=True)

    async def work(client: httpx.AsyncClient) -> None:
        engine.release(6)
        async with client.stream("POST", CHAT, json={**ENDLESS, "n": 2, "stream": True}) as response:
            async for _ in response.aiter_bytes():
                break
            assert engine.running == 2
        await eventually(lambda: engine.running == 0, "the sequences are gone")
        assert len(engine.aborted) == 2
        metrics = (await client.get("/metrics")).text
        assert 'penstock_sequences_finished_total{model="Echo-1B",reason="abort"} 2.0' in metrics
        assert 'penstock_http_requests_total{method="POST",route="/v1/chat/completions",status="499"} 1.0' in metrics

    over_http(engine, work)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_client_that_hangs_up_before_a_whole_answer_frees_its_sequences(echo_model: Path, path: str) -> None:
    engine = FakeEngine(echo_model, held=True)
    body = ENDLESS if path == CHAT else {"prompt": ["a", "b", "c"], "ignore_eos": True, "max_tokens": 100}

    async def work(client: httpx.AsyncClient) -> None:
        asking = asyncio.create_task(client.post(path, json=body))
        count = 1 if path == CHAT else 3
        await eventually(lambda: engine.running == count, "the sequences run")
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await eventually(lambda: engine.running == 0, "the sequences are gone")
        assert len(engine.aborted) == count

    over_http(engine, work)


def test_a_hang_up_leaves_other_streams_whole(echo_model: Path) -> None:
    engine = FakeEngine(echo_model, held=True)

    async def work(client: httpx.AsyncClient) -> None:
        asking = asyncio.create_task(client.post(CHAT, json={**SHORT, "stream": True}))
        await eventually(lambda: engine.running == 1, "the other stream runs")
        engine.release(2)
        async with client.stream("POST", CHAT, json={**ENDLESS, "stream": True}) as response:
            async for _ in response.aiter_bytes():
                break
        await eventually(lambda: engine.running == 1, "the sequence is gone")
        engine.release(20)
        chunks = events((await asking).text)
        assert chunks[-1] == "[DONE]"
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]) == "user"

    over_http(engine, work)


def test_comments_keep_a_silent_stream_alive_and_do_not_disturb_it(echo_model: Path) -> None:
    engine = FakeEngine(echo_model, held=True)

    async def work(client: httpx.AsyncClient) -> None:
        text = ""
        async with client.stream("POST", CHAT, json={**SHORT, "stream": True}) as response:
            assert response.status_code == 200
            async for piece in response.aiter_text():
                text += piece
                if text.count(": keep-alive\n\n") == 3:
                    engine.release(4)
        assert text.startswith(": keep-alive\n\n")
        chunks = events(text)
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]) == "user"

    over_http(engine, work, keepalive_seconds=0.02)


def test_a_client_that_reads_slowly_gets_everything_in_larger_chunks(echo_model: Path) -> None:
    engine = FakeEngine(echo_model)
    body = {"prompt": "x", "ignore_eos": True, "max_tokens": 500, "temperature": 0, "stream": True, "n": 128}
    raw = json.dumps(body).encode()
    head = f"POST {COMPLETIONS} HTTP/1.1\nHost: localhost\nConnection: close\nContent-Length: {len(raw)}\n\n"

    async def run() -> None:
        async with listening(engine) as url:
            reader, writer = await raw_request(url, head, raw)
            transport = writer.transport
            assert isinstance(transport, asyncio.ReadTransport)
            transport.pause_reading()
            await eventually(lambda: len(engine.added) == 128 and not engine.running, "all ended though nobody reads")
            transport.resume_reading()
            answer = (await reader.read()).partition(b"\r\n\r\n")[2].decode()
            writer.close()
        frames = [line.removeprefix("data: ") for line in answer.splitlines() if line.startswith("data: {")]
        texts = [""] * 128
        for frame in frames:
            [choice] = json.loads(frame)["choices"]
            texts[choice["index"]] += choice["text"]
        assert texts == ["x" * 500] * 128
        assert len(frames) < 128 * 500, "a slow reader's deltas are merged"
        assert "data: [DONE]" in answer

    asyncio.run(run())


def test_a_core_that_dies_before_the_first_token_is_a_503_to_try_again(echo_model: Path) -> None:
    engine = FakeEngine(echo_model, held=True)

    async def work(client: httpx.AsyncClient) -> None:
        for stream in (False, True):
            engine.state = "ready"
            asking = asyncio.create_task(client.post(CHAT, json={**ENDLESS, "stream": stream}))
            await eventually(lambda: engine.running == 1, "the sequence runs")
            engine.die()
            response = await asking
            error = error_of(response)
            assert (response.status_code, error["type"]) == (503, "service_unavailable_error")
            assert response.headers["retry-after"] == "1"
        refused = await client.post(CHAT, json=SHORT)
        assert (refused.status_code, error_of(refused)["code"]) == (503, "engine_restarting")
        health, ready = await client.get("/health"), await client.get("/ready")
        assert (health.status_code, health.json()["engine"]) == (200, "restarting")
        assert (ready.status_code, error_of(ready)["code"]) == (503, "engine_restarting")

    over_http(engine, work)


def test_a_core_that_dies_in_mid_stream_ends_it_with_an_error_event(echo_model: Path) -> None:
    engine = FakeEngine(echo_model, held=True)

    async def work(client: httpx.AsyncClient) -> None:
        text = ""
        engine.release(3)
        async with client.stream("POST", CHAT, json={**ENDLESS, "stream": True}) as response:
            async for piece in response.aiter_text():
                text += piece
                if "assistant" in text and engine.running:
                    engine.die()
        *_, last = events(text)
        assert set(last) == {"error"}
        assert last["error"]["code"] == "engine_died"
        assert "[DONE]" not in text
        metrics = (await client.get("/metrics")).text
        assert 'penstock_sequences_finished_total{model="Echo-1B",reason="error"} 1.0' in metrics

    over_http(engine, work)


@pytest.mark.parametrize("stream", [False, True])
def test_a_sequence_that_fails_fails_its_own_request_alone(echo_model: Path, stream: bool) -> None:
    engine = FakeEngine(echo_model, held=True)
    engine.failure = PenstockError("The model failed on this request.")

    async def work(client: httpx.AsyncClient) -> None:
        asking = asyncio.create_task(client.post(COMPLETIONS, json={"prompt": ["ab", "cd"], "stream": stream}))
        await eventually(lambda: engine.running == 2, "both sequences run")
        engine.release(6)
        response = await asking
        message = events(response.text)[-1]["error"]["message"] if stream else error_of(response)["message"]
        assert message == "The model failed on this request."
        assert response.status_code == (200 if stream else 500)
        await eventually(lambda: engine.running == 0, "the other prompt of the request is gone too")
        engine.failure = None
        engine.release(20)
        assert (await client.post(CHAT, json=SHORT)).status_code == 200

    over_http(engine, work)


def test_an_unexpected_failure_in_mid_stream_is_an_error_event_that_tells_only_where_the_log_has_it(
    echo_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = FakeEngine(echo_model)
    calls = 0
    token_bytes = engine.tokenizer.token_bytes

    def failing(token: int) -> bytes:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise RuntimeError("the secret cause")
        return token_bytes(token)

    monkeypatch.setattr(engine.tokenizer, "token_bytes", failing)

    async def work(client: httpx.AsyncClient) -> None:
        text = (await client.post(CHAT, json={**ENDLESS, "stream": True, "logprobs": True})).text
        *_, last = events(text)
        incident = last["error"]["message"].rstrip(".").split()[-1]
        assert last["error"]["type"] == "internal_error"
        assert incident in caplog.text
        assert "secret" not in text
        await eventually(lambda: engine.running == 0, "the sequence is gone")

    over_http(engine, work)
    assert "the secret cause" in caplog.text


def test_a_full_queue_is_a_429_to_try_again(echo_model: Path) -> None:
    engine = FakeEngine(echo_model, held=True, max_num_seqs=1, max_waiting=1)

    async def work(client: httpx.AsyncClient) -> None:
        waiting = [asyncio.create_task(client.post(CHAT, json=SHORT)) for _ in range(2)]
        await eventually(lambda: engine.running == 2, "the queue is full")
        refused = await client.post(CHAT, json={**SHORT, "stream": True})
        assert (refused.status_code, error_of(refused)["type"]) == (429, "rate_limit_error")
        assert refused.headers["retry-after"] == "1"
        engine.release(40)
        assert [(await each).status_code for each in waiting] == [200, 200]

    over_http(engine, work)


def test_a_body_over_the_limit_is_refused_before_it_is_read(echo_model: Path) -> None:
    engine = FakeEngine(echo_model)

    async def run() -> None:
        async with listening(engine, max_body_bytes=2048) as url:
            head = f"POST {CHAT} HTTP/1.1\nHost: localhost\nConnection: close\nContent-Length: 999999999\n\n"
            reader, writer = await raw_request(url, head)
            answer = (await reader.read()).decode()
            writer.close()
        assert answer.startswith("HTTP/1.1 413 ")
        assert json.loads(answer.partition("\r\n\r\n")[2])["error"]["code"] == "body_too_large"

    asyncio.run(asyncio.wait_for(run(), 20))


def test_a_body_of_unknown_length_is_counted_as_it_comes(echo_model: Path) -> None:
    async def endless() -> Any:
        for _ in range(64):
            yield b" " * 1024

    async def work(client: httpx.AsyncClient) -> None:
        response = await client.post(CHAT, content=endless())
        assert (response.status_code, error_of(response)["code"]) == (413, "body_too_large")
        assert (await client.post(CHAT, json=SHORT)).status_code == 200

    over_http(FakeEngine(echo_model), work, max_body_bytes=16 * 1024)


def test_garbage_after_an_early_answer_closes_the_connection(echo_model: Path) -> None:
    async def run() -> None:
        async with listening(FakeEngine(echo_model), max_body_bytes=2048) as url:
            head = f"POST {CHAT} HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked\n\n"
            reader, writer = await raw_request(url, head, b"1000\r\n" + b" " * 4096 + b"\r\n")
            answer = (await reader.readuntil(b"body_too_large")).decode()
            assert answer.startswith("HTTP/1.1 413 ")
            writer.write(b"this is no chunk\r\n")
            assert b"HTTP/1.1" not in await reader.read(), "nothing follows but the end of the answer"
            writer.close()

    asyncio.run(asyncio.wait_for(run(), 20))


def test_a_large_body_within_the_limit_is_taken_and_one_over_it_answered_in_full(echo_model: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        padded = json.dumps(SHORT).encode().ljust(3 << 20)
        assert (await client.post(CHAT, content=padded)).status_code == 200
        response = await client.post(CHAT, content=padded.ljust(8 << 20))
        assert (response.status_code, error_of(response)["type"]) == (413, "invalid_request_error")

    over_http(FakeEngine(echo_model), work)


def test_a_body_that_never_comes_is_given_up(echo_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.server.body.READ_SECONDS", 0.05)

    async def run() -> None:
        async with listening(FakeEngine(echo_model)) as url:
            head = f"POST {CHAT} HTTP/1.1\nHost: localhost\nConnection: close\nContent-Length: 100\n\n"
            reader, writer = await raw_request(url, head, b'{"messages"')
            answer = (await reader.read()).decode()
            writer.close()
        assert answer.startswith("HTTP/1.1 408 ")
        assert json.loads(answer.partition("\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"

    asyncio.run(asyncio.wait_for(run(), 20))


def test_a_client_that_leaves_while_it_sends_is_nobodys_error(
    echo_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        head = f"POST {CHAT} HTTP/1.1\nHost: localhost\nContent-Length: 100\n\n"
        _, writer = await raw_request(str(client.base_url).rstrip("/"), head, b"{")
        counted = 'route="/v1/chat/completions",status="499"} 1.0'
        writer.close()
        text = ""
        while counted not in text:
            text = (await client.get("/metrics")).text

    over_http(FakeEngine(echo_model), work)
    assert not caplog.records


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET / HTTP/1.1\nHost: localhost\nX-Long: " + "a" * 20_000, 431),
        ("GET / HTTP/1.1\nHost: localhost\nConnection: close\nX-Long: " + "a" * 20_000 + "\n\n", 431),
        ("GET /" + "a" * 20_000 + " HTTP/1.1\nHost: localhost\nConnection: close\n\n", 431),
        ("hello\n\n", 400),
        ("GET / HTTP/1.1\n\n", 400),
        ("POST / HTTP/1.1\nHost: localhost\nContent-Length: " + "9" * 5000 + "\n\n", 400),
        ("POST / HTTP/1.1\nHost: localhost\nContent-Length: 1\nContent-Length: 2\n\n", 400),
    ],
    ids=[
        "a head without end",
        "a head too large",
        "a path too long",
        "no HTTP",
        "no host",
        "an absurd length",
        "two lengths",
    ],
)
def test_what_is_not_http_gets_an_error_in_the_same_shape(echo_model: Path, head: str, status: int) -> None:
    async def run() -> None:
        async with listening(FakeEngine(echo_model), max_header_bytes=8192) as url:
            reader, writer = await raw_request(url, head)
            answer = (await reader.read()).decode()
            writer.close()
        assert answer.startswith(f"HTTP/1.1 {status} ")
        assert json.loads(answer.partition("\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"

    asyncio.run(asyncio.wait_for(run(), 20))


@pytest.mark.parametrize("name", ["", " ", "\t", ",", ": ", "\x00", "é", "\r\n\r\n", "a" * 5000])
def test_no_field_name_can_break_the_answers_head(echo_model: Path, name: str) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        response = await client.post(CHAT, json={**SHORT, name: 1})
        assert response.status_code == 200
        assert response.headers["x-penstock-ignored-fields"]

    over_http(FakeEngine(echo_model), work)


def test_streams_at_once_are_each_complete(echo_model: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        async def one(index: int) -> str:
            body = {"prompt": f"stream {index}", "temperature": 0, "stream": True, "max_tokens": 64}
            chunks = events((await client.post(COMPLETIONS, json=body)).text)
            return "".join(choice["text"] for chunk in chunks[:-1] for choice in chunk["choices"])

        texts = await asyncio.gather(*(one(index) for index in range(40)))
        assert texts == [f"stream {index}" for index in range(40)]

    over_http(FakeEngine(echo_model), work)
