"""An encoder's client and process: bounds, failures that stay alone, cancels, ends."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import socket
from array import array
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from penstock.core.errors import ConfigError, EngineDeadError, InvalidRequestError, ModelFileError, OverloadedError
from penstock.engine import wire
from penstock.engine.encoders import messages
from penstock.engine.encoders.client import EncoderClient
from penstock.engine.encoders.messages import EncoderConfig
from penstock.engine.encoders.process import FAILED, NOT_FINITE, EncoderLoop
from penstock.models.encoder_tokenizer import EncoderInput, EncoderTokenizer
from support.eventually import eventually
from support.tiny_encoders import write_encoder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path


BROKEN, INFINITE, ALONE = 13, 14, 15  # tokens that the fake session can't compute, or not beside another text


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("model"), "embedder")


def with_client(directory: Path, work: Callable[[EncoderClient], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        client = EncoderClient(EncoderConfig(directory=str(directory), threads=1, **options))
        await client.start()
        try:
            await work(client)
        finally:
            await client.close()

    asyncio.run(run())


def given(*lengths: int) -> list[EncoderInput]:
    return [EncoderInput([7] * length, [0] * length) for length in lengths]


def test_given_a_full_queue_then_a_request_is_refused_and_the_others_are_answered(model: Path) -> None:
    async def work(client: EncoderClient) -> None:
        running = [asyncio.create_task(client.encode(given(60, 60))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await client.encode(given(5))
        assert [len(vectors) for vectors in await asyncio.gather(*running)] == [2, 2]
        assert len(await client.encode(given(5, 5, 5, 5, 5))) == 5  # more than the bound, but alone

    with_client(model, work, max_waiting=4)


def test_given_inputs_that_cannot_be_read_then_they_are_refused(model: Path) -> None:
    async def work(client: EncoderClient) -> None:
        for wrong in (given(0), given(21), [EncoderInput([200], [0])], [EncoderInput([-1], [0])]):
            with pytest.raises(InvalidRequestError):
                await client.encode(wrong)

    with_client(model, work, max_length=20)


def test_given_a_request_that_is_given_up_then_draining_does_not_wait_for_it(model: Path) -> None:
    async def work(client: EncoderClient) -> None:
        task = asyncio.create_task(client.encode(given(*[60] * 200)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await client.drain(0.1)
        with pytest.raises(EngineDeadError):
            await client.encode(given(1))

    with_client(model, work)


def test_given_a_process_that_is_killed_then_its_requests_fail_and_later_ones_do_not(model: Path) -> None:
    async def work(client: EncoderClient) -> None:
        running = asyncio.create_task(client.encode(given(*[60] * 500)))
        await asyncio.sleep(0)
        assert client.pid is not None
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(EngineDeadError):
            await running
        await eventually(lambda: client.state == "ready", "it is up again")
        assert len(await client.encode(given(3))) == 1

    with_client(model, work)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda path: (path / "model.safetensors").write_bytes(b"short"), ModelFileError),
        (lambda path: (path / "tokenizer.json").unlink(), ModelFileError),
        (lambda path: (path / "model.onnx").write_bytes(b"no graph"), ModelFileError),
        (lambda path: None, ConfigError),
    ],
)
def test_given_a_model_that_cannot_be_loaded_then_the_start_says_why(
    tmp_path: Path, change: Callable[[Path], Any], error: type[Exception]
) -> None:
    path = write_encoder(tmp_path, "embedder")
    change(path)
    too_long = 65 if error is ConfigError else None

    async def run() -> None:
        client = EncoderClient(EncoderConfig(directory=str(path), max_length=too_long))
        with pytest.raises(error):
            await client.start()
        assert client.pid is None

    asyncio.run(run())


def test_given_less_memory_than_the_weights_take_then_the_start_is_refused(model: Path) -> None:
    async def run(memory: int) -> int:
        client = EncoderClient(EncoderConfig(directory=str(model), memory=memory))
        await client.start()
        await client.close()
        return client.info.weight_bytes

    taken = asyncio.run(run(1 << 30))
    stored = (model / "model.safetensors").stat().st_size
    assert 0.9 * stored < taken < 2 * stored
    assert asyncio.run(run(taken)) == taken
    with pytest.raises(ConfigError, match="Raise --memory") as refused:
        asyncio.run(run(taken - 1))
    assert refused.value.param == "memory"


def test_given_a_text_alone_then_its_tokens_are_those_it_has_among_others(model: Path) -> None:
    tokenizer = EncoderTokenizer.load(model, 64)
    texts = ["the fox", "été \U0001f98a \n dog " * 3, ("a pair", "of texts"), "dog " * 600]  # the last is a long one
    fields = ["text"] * len(texts)
    together = tokenizer.encode(texts, fields=fields, truncate=-1)
    assert [tokenizer.encode([text], fields=["text"], truncate=-1)[0] for text in texts] == together
    [bare] = tokenizer.encode(["the fox"], fields=["text"], add_special_tokens=False)
    assert [*bare.token_ids] == [*together[0].token_ids][1:-1]


class _Session:
    """Gives each text its first token; fails as it is told by tokens."""

    pads = True

    def __init__(self) -> None:
        self.calls: list[list[int]] = []  # first tokens

    def run(self, token_ids: Sequence[Any], type_ids: Sequence[Any]) -> Any:
        self.calls.append([int(ids[0]) for ids in token_ids])
        firsts = [int(ids[0]) for ids in token_ids]
        if BROKEN in firsts:
            raise RuntimeError("no such token")
        if ALONE in firsts:
            firsts = firsts[:1]
        return np.array([[np.inf if first == INFINITE else first] for first in firsts], np.float32)


def answers(*sent: messages.ToEncoder) -> dict[int, messages.Encoded]:
    """What the loop answers when all of this is in its inbox at once."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for message in sent:
            inbox.put(message)
        loop = EncoderLoop(_Session(), theirs)
        while not inbox.empty() or loop.has_work:
            loop.once(inbox)
        theirs.close()
        found = {}
        while (body := wire.receive(ours)) is not None:
            message = messages.from_encoder_decoder.decode(body)
            if isinstance(message, messages.Encoded):
                found[message.request_id] = message
        return found


def encode(request_id: int, *firsts: int, arrived: float = 0.0) -> messages.Encode:
    ids = [array("i", [first, 5, 5]).tobytes() for first in firsts]
    return messages.Encode(request_id, ids, ids, arrived)


def test_given_a_text_that_fails_then_its_request_alone_fails() -> None:
    found = answers(encode(0, 1, 2), encode(1, 3, BROKEN, 4), encode(2, 5), encode(3, INFINITE, 6))
    assert [array("f", vector)[0] for vector in found[0].vectors] == [1, 2]
    assert [array("f", vector)[0] for vector in found[2].vectors] == [5]
    assert (found[1].error, found[1].vectors) == (FAILED, [])
    assert (found[3].error, found[3].vectors) == (NOT_FINITE, [])


def test_given_a_model_that_takes_one_text_at_a_time_then_each_is_answered() -> None:
    found = answers(encode(0, 1, ALONE), encode(1, 2))
    assert [array("f", vector)[0] for vector in found[0].vectors] == [1, ALONE]
    assert [array("f", vector)[0] for vector in found[1].vectors] == [2]


def test_given_a_cancel_then_nothing_is_answered() -> None:
    assert answers(encode(0, 1), encode(1, 2), messages.Cancel(0), messages.Cancel(9)).keys() == {1}


class _Arrivals:
    """An inbox whose messages come at the times they bear, on a clock that goes on when somebody waits."""

    def __init__(self, *sent: messages.Encode) -> None:
        self._sent = list(sent)
        self.now = 0.0

    def get(self, *, block: bool, timeout: float | None) -> messages.Encode | None:
        until = self.now if not block else np.inf if timeout is None else self.now + timeout
        if self._sent and self._sent[0].arrived <= until:
            self.now = max(self.now, self._sent[0].arrived)
            return self._sent.pop(0)
        if until == np.inf:
            return None  # the client has gone
        self.now = until
        raise queue.Empty


@pytest.mark.parametrize(
    ("delay", "calls"), [(0.0, [[1], [2], [3], [4]]), (0.004, [[1, 2], [3, 4]]), (0.01, [[1, 2, 3], [4]])]
)
def test_given_a_delay_then_requests_that_come_within_it_share_a_call(delay: float, calls: list[list[int]]) -> None:
    inbox = _Arrivals(*(encode(at, at, arrived=when) for at, when in ((1, 0.003), (2, 0.006), (3, 0.012), (4, 0.0145))))
    session = _Session()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        loop = EncoderLoop(session, theirs, delay, lambda: inbox.now)
        while loop.once(cast("queue.SimpleQueue[Any]", inbox)):
            pass
    assert session.calls == calls
