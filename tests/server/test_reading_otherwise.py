"""Encoders and ensembles in batches and over a WebSocket: the same as over HTTP, and behind live traffic."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from openai import OpenAI
from websockets.sync.client import connect

from penstock.server.ensembles.declared import Ensemble, Step
from support.asking import CHAT, error_of
from support.encoder_server import serving
from support.eventually import eventually
from support.tiny_encoders import to_onnx, write_encoder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from openai.types import Batch

    from penstock.engine.encoders.client import EncoderClient
    from penstock.server.registry import ModelRegistry
    from support.live_server import Live

EMBEDDINGS = "/v1/embeddings"
TEXTS = ["hello world", "it isn't here", "one, two, three thousand and 45 of them"]
DOCUMENTS = ["it is 12", "Hello, world!", "one two three"]
LONG = "hello " * 100
GUARD = Step(kind="guard", model="class", refuse=("calm", "cross", "glad"), above=0.5)
ANSWER = Step(kind="generate", model="chat")
ENSEMBLES = [
    Ensemble(name="library", steps=(Step(kind="embed", model="embed", keep=1), ANSWER)),
    Ensemble(name="never", steps=(GUARD, ANSWER)),
]


@pytest.fixture(scope="module")
def served(echo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Live, ModelRegistry]]:
    made = {name: tmp_path_factory.mktemp(name) for name in ("embed", "torch", "class")}
    write_encoder(made["embed"], "embedder")
    to_onnx(write_encoder(made.pop("torch"), "classifier"), made["class"])
    with serving(echo_model, made, ensembles=ENSEMBLES, data_dir=tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture(scope="module")
def client(served: tuple[Live, ModelRegistry]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served[0].url, timeout=20) as client:
        yield client


@pytest.fixture(scope="module")
def openai(served: tuple[Live, ModelRegistry]) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served[0].url}/v1", api_key="unused", timeout=20, max_retries=0) as client:
        yield client


@pytest.fixture
def asked(served: tuple[Live, ModelRegistry], monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each request to the embedder, whether it is in the background."""
    live, registry = served
    engine: EncoderClient = live.call(lambda: next(each for each in registry if each.name == "embed")).engine  # type: ignore[assignment]  # an encoder's
    encode, seen = engine.encode, []

    async def watched(inputs: Any, *, background: bool = False) -> list[bytes]:
        seen.append(background)
        return await encode(inputs, background=background)

    monkeypatch.setattr(engine, "encode", watched)
    return seen


def run(openai: OpenAI, endpoint: Any, *bodies: dict[str, Any]) -> tuple[Batch, dict[str, Any], dict[str, Any]]:
    """A batch of these, once it has ended: its answers by line, and its errors."""
    lines = [
        json.dumps({"custom_id": str(number), "method": "POST", "url": endpoint, "body": body})
        for number, body in enumerate(bodies, 1)
    ]
    file = openai.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch")
    made = openai.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")

    async def wait() -> Batch:
        await eventually(lambda: openai.batches.retrieve(made.id).status == "completed", "the batch has ended")
        return openai.batches.retrieve(made.id)

    batch = asyncio.run(wait())
    found = []
    for name in (batch.output_file_id, batch.error_file_id):
        text = openai.files.content(name).text if name else ""
        found.append({each["custom_id"]: each for each in map(json.loads, text.splitlines())})
    return batch, found[0], found[1]


def test_given_a_batch_of_texts_then_each_line_has_its_vectors_and_the_bad_one_its_error(
    client: httpx.Client, openai: OpenAI, asked: list[bool]
) -> None:
    bodies = [{"model": "embed", "input": text} for text in (*TEXTS, LONG, TEXTS)]
    batch, answers, errors = run(openai, EMBEDDINGS, *bodies)
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (4, 1)
    assert asked == [True] * 4  # a line that is too long never comes that far
    for number in ("1", "2", "3", "5"):
        expected = client.post(EMBEDDINGS, json=bodies[int(number) - 1]).json()
        got = answers[number]["response"]["body"]
        assert len(got["data"]) == len(expected["data"])
        for one, other in zip(got["data"], expected["data"], strict=True):
            assert one["embedding"] == pytest.approx(other["embedding"], abs=1e-5)
    assert asked[4:] == [False] * 4
    assert errors.keys() == {"4"}
    assert errors["4"]["response"]["status_code"] == 400
    assert errors["4"]["error"]["line"] == 4


def conversation(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "what time is it?"}], "temperature": 0, **fields}


def test_given_a_batch_of_conversations_with_ensembles_then_each_goes_its_steps(
    client: httpx.Client, openai: OpenAI, asked: list[bool]
) -> None:
    bodies = [conversation("library", documents=DOCUMENTS), conversation("never"), conversation("library")]
    _, answers, errors = run(openai, CHAT, *bodies)
    (answer,) = (each["response"]["body"] for each in answers.values())
    assert [step["step"] for step in answer["steps"]] == ["embed", "generate"]
    assert asked == [True]
    expected = client.post(CHAT, json=bodies[0]).json()
    assert answer["choices"][0]["message"] == expected["choices"][0]["message"]
    assert "refused" in errors["2"]["error"]["message"]
    assert "'documents' is missing" in errors["3"]["error"]["message"]


def test_given_a_websocket_then_ensembles_and_encoders_answer_over_it(
    served: tuple[Live, ModelRegistry], client: httpx.Client
) -> None:
    def told(frames: list[dict[str, Any]], name: str, kind: str) -> list[dict[str, Any]]:
        return [frame for frame in frames if (frame["id"], frame["type"]) == (name, kind)]

    requests: dict[str, tuple[str, dict[str, Any]]] = {
        "whole": (CHAT, conversation("library", documents=DOCUMENTS)),
        "stream": (CHAT, conversation("library", documents=DOCUMENTS, stream=True)),
        "guard": (CHAT, conversation("never", stream=True)),
        "vectors": (EMBEDDINGS, {"model": "embed", "input": TEXTS}),
        "wrong": (EMBEDDINGS, {"model": "library", "input": TEXTS}),
    }
    frames: list[dict[str, Any]] = []
    with connect(served[0].url.replace("http://", "ws://") + "/v1/stream") as socket:
        for name, (endpoint, body) in requests.items():
            socket.send(json.dumps({"type": "request", "id": name, "endpoint": endpoint, "body": body}))
        while sum(frame["type"] == "done" for frame in frames) < len(requests):
            frames.append(json.loads(socket.recv(timeout=20)))
    expected = client.post(CHAT, json=requests["whole"][1]).json()["choices"][0]["message"]["content"]
    (whole,) = told(frames, "whole", "response")
    assert whole["body"]["choices"][0]["message"]["content"] == expected
    assert [step["step"] for step in whole["body"]["steps"]] == ["embed", "generate"]
    chunks = [frame["data"] for frame in told(frames, "stream", "event")]
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"]) == expected
    (refused,) = told(frames, "guard", "error")
    assert (refused["status"], "refused" in refused["error"]["message"]) == (400, True)
    (vectors,) = told(frames, "vectors", "response")
    assert len(vectors["body"]["data"]) == len(TEXTS)
    (wrong,) = told(frames, "wrong", "error")
    answered = client.post(EMBEDDINGS, json=requests["wrong"][1])
    assert (wrong["status"], wrong["error"]) == (answered.status_code, error_of(answered))
