"""Many requests over one WebSocket: what comes back under which id, and how a connection ends."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from penstock.core.errors import EngineDeadError
from penstock.server.websocket import MOST_REQUESTS, _EventReader
from support.asking import CHAT, ask, events
from support.eventually import eventually
from support.fake_engine import FakeEngine
from support.listening import listening

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from websockets.asyncio.client import ClientConnection

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0}
DEEP = '{"type": "request", "id": "a", "endpoint": "/tokenize", "body": ' + "[" * 100_000
SAID = "user\nhello\nassistant\n"


@pytest.fixture
def engine(echo_model: Path) -> FakeEngine:
    return FakeEngine(echo_model)


def over(
    engine: FakeEngine,
    work: Callable[[ClientConnection], Awaitable[None]],
    *,
    headers: dict[str, str] | None = None,
    path: str = "/v1/stream",
    **options: Any,
) -> None:
    """Run `work(socket)` over a connection to the engine's server."""

    async def run() -> None:
        async with listening(engine, **options) as url:
            address = url.replace("http://", "ws://") + path
            async with connect(address, additional_headers=headers, max_size=None) as socket:
                await asyncio.wait_for(work(socket), 30)

    asyncio.run(run())


async def begin(socket: ClientConnection, name: str, endpoint: str = CHAT, **fields: Any) -> None:
    frame = {"type": "request", "id": name, "endpoint": endpoint, "body": {**HELLO, **fields}}
    await socket.send(json.dumps(frame))


async def until_done(socket: ClientConnection, *names: str) -> dict[str, list[dict[str, Any]]]:
    """Frames by id, until each of these has its last."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    while not all(frames and frames[-1]["type"] == "done" for frames in found.values()):
        frame = json.loads(await socket.recv())
        found.setdefault(frame["id"], []).append(frame)
    return found


async def closing(socket: ClientConnection) -> tuple[int, str]:
    """The code and the reason with which the server closes."""
    with pytest.raises(ConnectionClosed) as closed:
        await socket.recv()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def test_requests_share_a_connection_and_give_what_they_give_over_http(engine: FakeEngine) -> None:
    streamed = events(ask(engine, "POST", CHAT, {**HELLO, "stream": True}).text)

    async def work(socket: ClientConnection) -> None:
        await begin(socket, "stream", stream=True)
        await begin(socket, "whole")
        await begin(socket, "bad", messages=[])
        await begin(socket, "responses", "/v1/responses", messages=None, input="hello", store=False, stream=True)
        await begin(socket, "messages", "/v1/messages", model="Echo-1B", max_tokens=3, stream=True)
        found = await until_done(socket, "stream", "whole", "bad", "responses", "messages")
        *parts, done = found["stream"]
        assert done == {"type": "done", "id": "stream", "cancelled": False}
        assert {frame["type"] for frame in parts} == {"event"}
        assert [frame["data"]["choices"] for frame in parts] == [event["choices"] for event in streamed[:-1]]
        answer, _ = found["whole"]
        assert (answer["type"], answer["status"]) == ("response", 200)
        assert answer["body"]["choices"][0]["message"]["content"] == SAID
        error, _ = found["bad"]
        assert (error["type"], error["status"], error["error"]["param"]) == ("error", 400, "messages")
        assert found["responses"][-2]["data"]["type"] == "response.completed"
        assert found["messages"][-2]["data"]["type"] == "message_stop"

    over(engine, work)


@pytest.mark.parametrize("stream", [False, True])
def test_fields_of_no_effect_are_named_at_the_end(engine: FakeEngine, stream: bool) -> None:
    async def work(socket: ClientConnection) -> None:
        await begin(socket, "a", user="me", stream=stream)
        *_, done = (await until_done(socket, "a"))["a"]
        assert done == {"type": "done", "id": "a", "cancelled": False, "ignored_fields": "user"}

    over(engine, work)


@pytest.mark.parametrize(
    ("frame", "param", "said"),
    [
        ({"id": "a"}, "type", "'type' is missing."),
        ({"type": "reqest", "id": "a"}, "type", "'type' is not valid: 'reqest' is none of request, cancel."),
        ({"type": "request", "id": "a", "body": {}}, "endpoint", "'endpoint' is missing."),
        ({"type": "cancel", "id": "a", "why": "x"}, "why", "'why' is an unknown field."),
        ({"type": "cancel", "id": 5}, "id", "'id' is not valid: expected `str`, got `int`."),
        ([], None, "The frame must be a JSON object: expected `object`, got `array`."),
    ],
)
def test_a_wrong_frame_is_told_what_is_wrong_with_it(
    engine: FakeEngine, frame: Any, param: str | None, said: str
) -> None:
    async def work(socket: ClientConnection) -> None:
        await socket.send(json.dumps(frame))
        error = json.loads(await socket.recv())["error"]
        assert (error["param"], error["message"]) == (param, said)

    over(engine, work)


def test_a_cancelled_request_is_aborted_and_its_id_is_free_again(echo_model: Path) -> None:
    engine = FakeEngine(echo_model, held=True)

    async def work(socket: ClientConnection) -> None:
        await begin(socket, "a", stream=True)
        await begin(socket, "b", stream=True)
        await eventually(lambda: engine.running == 2, "both run")
        for name in ("a", "none"):
            await socket.send(json.dumps({"type": "cancel", "id": name}))
        assert (await until_done(socket, "a"))["a"] == [{"type": "done", "id": "a", "cancelled": True}]
        assert (engine.running, len(engine.aborted)) == (1, 1)
        engine.release(1000)
        await begin(socket, "a")
        found = await until_done(socket, "a", "b")
        assert found["a"][0]["status"] == 200

    over(engine, work)


def test_a_request_that_is_cancelled_at_once_ends_like_any_other(engine: FakeEngine) -> None:
    async def work(socket: ClientConnection) -> None:
        for number in range(20):
            await begin(socket, str(number), stream=True)
            await socket.send(json.dumps({"type": "cancel", "id": str(number)}))
        found = await until_done(socket, *map(str, range(20)))
        assert {frames[-1]["cancelled"] for frames in found.values()} == {True}

    over(engine, work)


def test_hanging_up_aborts_everything(echo_model: Path) -> None:
    engine = FakeEngine(echo_model, held=True)

    async def work(socket: ClientConnection) -> None:
        for number in range(3):
            await begin(socket, str(number), stream=True)
        await eventually(lambda: engine.running == 3, "all run")
        await socket.close()
        await eventually(lambda: len(engine.aborted) == 3, "all are aborted")

    over(engine, work)


def test_a_failure_in_the_midst_of_a_stream_is_told_under_its_id(engine: FakeEngine) -> None:
    engine.failure = EngineDeadError("It broke.")

    async def work(socket: ClientConnection) -> None:
        await begin(socket, "a", stream=True)
        await begin(socket, "m", "/v1/messages", model="Echo-1B", max_tokens=9, stream=True)
        found = await until_done(socket, "a", "m")
        for frames in found.values():
            assert frames[-2]["type"] == "error"
            assert frames[-2]["error"]["message"] == "It broke."

    over(engine, work)


@pytest.mark.parametrize(
    ("frame", "name", "code"),
    [
        ({"type": "request", "id": "a", "endpoint": "/v1/files", "body": {}}, "a", "invalid_endpoint"),
        ({"type": "request", "id": "a", "endpoint": "/metrics", "body": {}}, "a", "invalid_endpoint"),
        ({"type": "request", "id": "a", "endpoint": CHAT}, "a", "invalid_frame"),
        ({"type": "request", "id": "", "endpoint": CHAT, "body": {}}, "", "invalid_frame"),
        ({"type": "request", "id": 5, "endpoint": CHAT, "body": {}}, None, "invalid_frame"),
        ({"type": "what", "id": "a"}, "a", "invalid_frame"),
        ({}, None, "invalid_frame"),
        ([], None, "invalid_frame"),
    ],
)
def test_a_frame_that_cannot_be_is_refused_and_the_connection_stays(
    engine: FakeEngine, frame: Any, name: str | None, code: str
) -> None:
    async def work(socket: ClientConnection) -> None:
        await socket.send(json.dumps(frame))
        refused = json.loads(await socket.recv())
        assert (refused["type"], refused["id"], refused["error"]["code"]) == ("error", name, code)
        await begin(socket, "next")
        assert (await until_done(socket, "next"))["next"][0]["status"] == 200

    over(engine, work)


def test_an_id_in_use_and_too_many_requests_are_refused(echo_model: Path) -> None:
    engine = FakeEngine(echo_model, held=True)

    async def work(socket: ClientConnection) -> None:
        for number in range(MOST_REQUESTS):
            await begin(socket, str(number), stream=True)
        await begin(socket, "0")
        assert json.loads(await socket.recv())["error"]["code"] == "duplicate_request_id"
        await begin(socket, "more")
        refused = (await until_done(socket, "more"))["more"][0]
        assert (refused["status"], refused["error"]["code"]) == (429, "too_many_requests")

    over(engine, work)


@pytest.mark.parametrize(
    ("sent", "code"), [("{no json", 1007), ("", 1007), (DEEP, 1007), (b"{}", 1003), ("x" * 70_000, 1009)]
)
def test_what_is_no_frame_at_all_ends_the_connection_with_a_reason(engine: FakeEngine, sent: Any, code: int) -> None:
    async def work(socket: ClientConnection) -> None:
        await socket.send(sent)
        closed, reason = await closing(socket)
        assert closed == code
        assert reason

    over(engine, work, max_body_bytes=200_000 if code == 1007 else 65_536)


@pytest.mark.parametrize(
    ("options", "headers", "status"),
    [
        ({"api_keys": ("right",)}, {}, 401),
        ({"api_keys": ("right",)}, {"Authorization": "Bearer wrong"}, 401),
        ({}, {"Origin": "http://elsewhere.example"}, 403),
    ],
)
def test_whoever_may_not_come_in_is_refused_at_the_handshake(
    engine: FakeEngine,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
    headers: dict[str, str],
    status: int,
) -> None:
    async def work(_socket: ClientConnection) -> None:
        raise AssertionError("it came in")

    with pytest.raises(InvalidStatus) as refused:
        over(engine, work, headers=headers, **options)
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body)["error"]["message"]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_key_opens_the_connection(engine: FakeEngine) -> None:
    async def work(socket: ClientConnection) -> None:
        await begin(socket, "a")
        assert (await until_done(socket, "a"))["a"][0]["status"] == 200

    over(engine, work, api_keys=("right",), headers={"Authorization": "Bearer right"})


def test_another_path_has_no_socket(engine: FakeEngine) -> None:
    async def work(_socket: ClientConnection) -> None:
        raise AssertionError("it came in")

    with pytest.raises(InvalidStatus) as refused:
        over(engine, work, path="/v1/chat/completions")
    assert refused.value.response.status_code in (403, 404)


def test_a_slow_reader_holds_up_its_own_connection_alone(engine: FakeEngine) -> None:
    async def run() -> None:
        async with listening(engine) as url:
            address = url.replace("http://", "ws://") + "/v1/stream"
            async with connect(address, max_queue=1) as slow, connect(address) as quick:
                for number in range(20):
                    await begin(slow, str(number), stream=True, ignore_eos=True, max_tokens=400)
                await begin(quick, "a")
                assert (await until_done(quick, "a"))["a"][0]["status"] == 200
                found = await until_done(slow, *map(str, range(20)))
                for frames in found.values():
                    deltas = (frame["data"]["choices"][0]["delta"] for frame in frames[:-1])
                    assert len("".join(delta.get("content") or "" for delta in deltas)) > 300

    asyncio.run(asyncio.wait_for(run(), 60))


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["data: {}\n\n", "event: a\ndata: [1]\n\n", ": comment\n\n", "data: [DONE]\n\n"])),
    st.data(),
)
def test_events_are_read_wherever_they_are_cut(frames: list[str], data: st.DataObject) -> None:
    text = "".join(frames).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    reader = _EventReader()
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    found = [each for piece in pieces for each in reader.push(piece)]
    assert found == [b"{}" if "{}" in frame else b"[1]" for frame in frames if "{}" in frame or "[1]" in frame]
