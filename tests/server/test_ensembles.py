"""Ensembles over real encoders of random weights and a generator that says its prompt back."""

from __future__ import annotations

import os
import re
import signal
import time
from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import pytest
from openai import BadRequestError, OpenAI

from penstock.server.ensembles.declared import Ensemble, Step
from support.asking import CHAT, error_of, events
from support.encoder_server import serving
from support.eventually import eventually
from support.named_events import named_events
from support.tiny_encoders import LABELS, to_onnx, write_encoder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.server.registry import ModelRegistry
    from support.live_server import Live

DOCUMENTS = ["it is 12", "Hello, world!", "def f(x): return x", "one two three", "and so on"]
GUARD = Step(kind="guard", model="class", refuse=("cross", "glad"), above=0.5)
ANSWER = Step(kind="generate", model="chat")
ENSEMBLES = [
    Ensemble(
        name="library",
        aliases=("docs",),
        steps=(Step(kind="embed", model="embed", keep=4), Step(kind="rerank", model="rank", keep=2), ANSWER),
    ),
    Ensemble(name="safe", steps=(GUARD, ANSWER)),
    Ensemble(name="lax", steps=(Step(kind="guard", model="class", refuse=("cross",), above=1), ANSWER)),
    Ensemble(name="own", steps=(Step(kind="embed", model="embed", keep=1), ANSWER)),
]


@pytest.fixture(scope="module")
def served(echo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Live, ModelRegistry]]:
    made = {name: tmp_path_factory.mktemp(name) for name in ("embed", "rank", "torch", "class")}
    write_encoder(made["embed"], "embedder")
    write_encoder(made["rank"], "reranker", "roberta")
    to_onnx(write_encoder(made.pop("torch"), "classifier"), made["class"])
    with serving(echo_model, made, ensembles=ENSEMBLES) as server:
        yield server


@pytest.fixture(scope="module")
def client(served: tuple[Live, ModelRegistry]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served[0].url, timeout=20) as client:
        yield client


@pytest.fixture(scope="module")
def openai(served: tuple[Live, ModelRegistry]) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served[0].url}/v1", api_key="unused", timeout=20, max_retries=0) as client:
        yield client


def body(model: str, text: str = "what time is it?", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, **fields}


def post(client: httpx.Client, path: str = CHAT, **fields: Any) -> httpx.Response:
    response = client.post(path, json=fields)
    assert response.status_code == 200, response.text
    return response


def best(client: httpx.Client, model: str, query: str, among: list[int], most: int) -> list[int]:
    """What /rerank says of these documents."""
    ask = {"model": model, "query": query, "documents": [DOCUMENTS[index] for index in among]}
    ranked = post(client, "/rerank", **ask, top_n=most).json()["results"]
    return [among[each["index"]] for each in ranked]


def expected(client: httpx.Client, query: str = "what time is it?") -> tuple[list[int], list[int]]:
    embedded = best(client, "embed", query, [*range(len(DOCUMENTS))], 4)
    return embedded, best(client, "rank", query, embedded, 2)


def numbered(text: str) -> list[int]:
    """Numbers of the documents that a prompt tells."""
    return [int(found) for found in re.findall(r"^\[(\d+)\] ", text, re.MULTILINE)]


@pytest.mark.proves(
    chat="documents", ChatCompletion="steps", StepReport="step model seconds kept", ChatDocument="text title"
)
def test_given_documents_then_the_best_of_the_best_are_told_to_the_generator_and_named(client: httpx.Client) -> None:
    embedded, reranked = expected(client)
    documents = [*DOCUMENTS[:4], {"text": DOCUMENTS[4]}]
    response = post(client, **body("library", documents=documents))
    answer = response.json()
    assert answer["model"] == "library"
    said = answer["choices"][0]["message"]["content"]
    assert numbered(said) == reranked
    assert all(f"[{index}] {DOCUMENTS[index]}" in said for index in reranked)
    assert said.startswith("system\n")
    assert "user\nwhat time is it?" in said
    steps = answer["steps"]
    assert [(step["step"], step["model"], step.get("kept")) for step in steps] == [
        ("embed", "embed", embedded),
        ("rerank", "rank", reranked),
        ("generate", "chat", None),
    ]
    assert all(0 < step["seconds"] < 20 for step in steps)
    assert re.fullmatch(r"embed;dur=[\d.]+, rerank;dur=[\d.]+", response.headers["server-timing"])


def test_given_a_title_then_it_is_judged_and_told_with_its_text(client: httpx.Client) -> None:
    answer = post(client, **body("own", documents=[{"title": "Clocks", "text": "It is noon."}])).json()
    assert "[0] Clocks\nIt is noon." in answer["choices"][0]["message"]["content"]
    assert answer["steps"][0]["kept"] == [0]


@pytest.mark.parametrize("content", ["Be brief.", [{"type": "text", "text": "Be brief."}]])
def test_given_a_system_message_then_the_documents_are_added_to_it(client: httpx.Client, content: Any) -> None:
    messages = [{"role": "system", "content": content}, *body("")["messages"]]
    answer = post(client, model="docs", messages=messages, documents=DOCUMENTS, temperature=0).json()
    said = answer["choices"][0]["message"]["content"]
    assert said.count("system\n") == 1
    assert said.index("Be brief.") < said.index("[") < said.index("user\n")
    assert answer["model"] == "docs"


@pytest.mark.proves(ChatChunk="steps")
@pytest.mark.parametrize("choices", [1, 3])
def test_given_a_stream_then_the_steps_come_with_the_last_finish_reason_alone(
    client: httpx.Client, choices: int
) -> None:
    response = post(client, **body("library", documents=DOCUMENTS, stream=True, n=choices, max_tokens=5))
    *chunks, done = events(response.text)
    assert done == "[DONE]"
    assert all(len(chunk["choices"]) == 1 for chunk in chunks)
    *before, last = chunks
    assert not any("steps" in chunk for chunk in before)
    assert last["choices"][0]["finish_reason"] == "length"
    assert [step["step"] for step in last["steps"]] == ["embed", "rerank", "generate"]
    assert response.headers["server-timing"].startswith("embed;dur=")


def test_a_guard_refuses_exactly_what_its_labels_together_make_likely(client: httpx.Client, openai: OpenAI) -> None:
    texts = ["hello", "world", "it is 12", "one", "return x", "and so on", "def", "in", "the end", "what's this?"]
    refused = set()
    for text in texts:
        [found] = post(client, "/classify", model="class", input=text).json()["data"]
        likely = found["probs"][1] + found["probs"][2]
        response = client.post(CHAT, json=body("safe", text))
        if likely <= 0.5:
            assert response.status_code == 200, response.text
            assert [step["step"] for step in response.json()["steps"]] == ["guard", "generate"]
            continue
        refused.add(text)
        error = error_of(response)
        assert (response.status_code, error["code"], error["param"]) == (400, "content_filter", "messages")
        likeliest = LABELS[1 if found["probs"][1] > found["probs"][2] else 2]
        assert error["message"] == f"The last message of the user was refused as {likeliest!r}."
    assert refused
    assert refused != {*texts}
    with pytest.raises(BadRequestError) as raised:
        openai.chat.completions.create(**body("safe", min(refused)))
    assert raised.value.code == "content_filter"


def test_nothing_hides_from_a_guard_behind_a_long_beginning(client: httpx.Client) -> None:
    texts = ["hello", "world", "it is 12", "one", "return x", "and so on", "def", "in", "the end", "what's this?"]
    found = post(client, "/classify", model="class", input=texts).json()["data"]
    likely = {text: each["probs"][1] + each["probs"][2] for text, each in zip(texts, found, strict=True)}
    calm, bad = min(texts, key=likely.__getitem__), max(texts, key=likely.__getitem__)
    long = f"{calm} " * 60  # the classifier reads 64 tokens
    assert client.post(CHAT, json=body("safe", long)).status_code == 200
    refused = client.post(CHAT, json=body("safe", long + f"{bad} " * 60))
    assert error_of(refused)["code"] == "content_filter"


def test_a_guard_that_never_refuses_lets_through_and_reads_the_users_last_message_only(client: httpx.Client) -> None:
    answer = post(client, **body("lax", "anything")).json()
    assert answer["steps"][0].keys() == {"step", "model", "seconds"}
    turns = [*body("")["messages"], {"role": "assistant", "content": "noon"}]
    assert post(client, model="lax", messages=turns).json()["choices"]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        (body("library"), "documents", "missing_field"),
        (body("library", documents=[]), "documents", "missing_field"),
        (body("library", documents=["a", ""]), "documents[1]", "empty_input"),
        (body("library", documents=["a", 5]), "documents[1]", "invalid_value"),
        (body("library", documents=[{"title": "a"}]), "documents[0].text", "missing_field"),
        (body("library", documents=["a"] * 2049), "documents", "invalid_value"),
        (body("library", " ", documents=["a"]), "messages", "empty_input"),
        (body("safe", documents=["a"]), "documents", "unsupported_parameter"),
        (body("chat", documents=["a"]), "documents", "unsupported_parameter"),
        ({"model": "safe", "messages": [{"role": "system", "content": "a"}]}, "messages", "empty_input"),
    ],
)
def test_what_a_chain_cannot_do_is_a_400_with_the_field(
    client: httpx.Client, fields: dict[str, Any], param: str, code: str
) -> None:
    response = client.post(CHAT, json=fields)
    assert response.status_code == 400, response.text
    error = error_of(response)
    assert (error["param"], error["code"]) == (param, code)


def test_a_plain_model_takes_no_documents_or_none_at_all(client: httpx.Client) -> None:
    for neutral in (None, []):
        answer = post(client, **body("chat", documents=neutral))
        assert "steps" not in answer.json()
        assert "server-timing" not in answer.headers


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/embeddings", {"input": "a"}),
        ("/classify", {"input": "a"}),
        ("/tokenize", {"prompt": "a"}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "a"}]}),
    ],
)
def test_an_ensemble_holds_conversations_and_nothing_goes_past_its_guard(
    client: httpx.Client, path: str, fields: dict[str, Any]
) -> None:
    response = client.post(path, json={"model": "safe", **fields})
    assert response.status_code == 400
    assert "'safe' is an ensemble" in response.json()["error"]["message"]


@pytest.mark.proves(responses="documents")
def test_given_responses_then_the_chain_is_the_same(client: httpx.Client, openai: OpenAI) -> None:
    response = openai.responses.create(
        model="library", input="what time is it?", temperature=0, extra_body={"documents": DOCUMENTS}
    )
    assert response.model == "library"
    assert numbered(response.output_text) == expected(client)[1]
    asked = {"model": "library", "input": "what time is it?", "documents": DOCUMENTS, "stream": True}
    streamed = post(client, "/v1/responses", **asked)
    assert streamed.headers["server-timing"].startswith("embed;dur=")
    assert named_events(streamed.text)[-1]["type"] == "response.completed"
    missing = client.post("/v1/responses", json={"model": "library", "input": "a"})
    assert error_of(missing)["param"] == "documents"


def test_given_a_response_in_the_background_then_the_chain_runs_there(client: httpx.Client, openai: OpenAI) -> None:
    begun = openai.responses.create(
        model="library",
        input="what time is it?",
        temperature=0,
        background=True,
        extra_body={"documents": DOCUMENTS},
    )
    deadline = time.monotonic() + 20
    while (now := openai.responses.retrieve(begun.id)).status in ("queued", "in_progress"):
        assert time.monotonic() < deadline
    assert now.status == "completed"
    assert numbered(now.output_text) == expected(client)[1]


@pytest.mark.proves(messages="documents")
def test_given_messages_then_the_chain_is_the_same(served: tuple[Live, ModelRegistry], client: httpx.Client) -> None:
    asked: Any = [{"role": "user", "content": "what time is it?"}]
    with anthropic.Anthropic(base_url=served[0].url, api_key="unused", timeout=20, max_retries=0) as own:
        answer = own.messages.create(
            model="library", max_tokens=300, messages=asked, extra_body={"documents": DOCUMENTS, "temperature": 0}
        )
    assert answer.model == "library"
    assert numbered(getattr(answer.content[0], "text", "")) == expected(client)[1]
    plain = {"model": "chat", "max_tokens": 5, "messages": asked, "documents": ["a"]}
    refused = client.post("/v1/messages", json=plain)
    assert refused.status_code == 400
    assert "'documents' is not supported" in refused.json()["error"]["message"]


def test_ensembles_are_listed_with_their_aliases_and_are_ready_when_their_models_are(client: httpx.Client) -> None:
    listed = [card["id"] for card in client.get("/v1/models").json()["data"]]
    assert listed == ["chat", "embed", "rank", "class", "library", "docs", "safe", "lax", "own"]
    card = client.get("/v1/models/docs").json()
    assert (card["root"], card["max_model_len"]) == ("library", 512)
    assert client.get("/ready", params={"model": "docs"}).status_code == 200


def test_each_steps_time_is_counted(client: httpx.Client) -> None:
    def counts() -> dict[str, float]:
        line = re.compile(r"^penstock_ensemble_step_seconds_count\{(.*)\} (\S+)$", re.MULTILINE)
        found = line.findall(client.get("/metrics").text)
        return {labels: float(value) for labels, value in found}

    before = counts()
    post(client, **body("docs", documents=DOCUMENTS))
    for labels in (
        'ensemble="library",model="embed",step="embed"',
        'ensemble="library",model="rank",step="rerank"',
        'ensemble="library",model="chat",step="generate"',
    ):
        assert counts()[labels] == before.get(labels, 0) + 1


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/responses"])
def test_given_a_client_that_hangs_up_then_the_step_is_cancelled(
    served: tuple[Live, ModelRegistry], client: httpx.Client, path: str
) -> None:
    live, registry = served
    model: Any = registry.find("class").served
    os.kill(model.engine.pid, signal.SIGSTOP)
    try:
        asked = {"input": "a"} if path == "/v1/responses" else body("safe", "a", max_tokens=5)
        with pytest.raises(httpx.ReadTimeout):
            client.post(path, json={**asked, "model": "safe"}, timeout=0.3)
        live.call(eventually, lambda: not model.engine.stats.running and not model.uses, "nothing is left of it")
    finally:
        os.kill(model.engine.pid, signal.SIGCONT)
    assert post(client, "/classify", model="class", input="a").json()["data"]
    assert not registry.find("chat").served.uses  # type: ignore[union-attr]
