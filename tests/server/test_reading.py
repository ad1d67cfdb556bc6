"""/v1/embeddings, /rerank, /score and /classify over real encoders of random weights, and a fake generator."""

from __future__ import annotations

import asyncio
import base64
import math
import os
import signal
from array import array
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from openai import OpenAI

from penstock.core.errors import ConfigError
from penstock.engine.config import EngineConfig
from penstock.server.engines import make_engine
from support.asking import error_of
from support.encoder_server import serving
from support.eventually import eventually
from support.tiny_encoders import LABELS, to_onnx, write_encoder, write_pooling

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.server.registry import ModelRegistry
    from support.live_server import Live

EMBEDDINGS, RERANK, SCORE, CLASSIFY = "/v1/embeddings", "/rerank", "/score", "/classify"
TEXTS = ["hello world", "it isn't here", "one, two, three thousand and 45 of them"]
LONG = "hello " * 100


@pytest.fixture(scope="module")
def served(echo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Live, ModelRegistry]]:
    made = {name: tmp_path_factory.mktemp(name) for name in ("embed", "rank", "class", "onnx")}
    write_pooling(write_encoder(made["embed"], "embedder"), "mean_tokens", normalize=True)
    write_encoder(made["rank"], "reranker", "roberta")
    write_encoder(made["class"], "classifier")
    to_onnx(made["class"], made["onnx"])
    with serving(echo_model, made) as server:
        yield server


@pytest.fixture(scope="module")
def client(served: tuple[Live, ModelRegistry]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served[0].url, timeout=20) as client:
        yield client


def ask(client: httpx.Client, path: str, **body: Any) -> Any:
    """The answer, which must be a success."""
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def refused(client: httpx.Client, path: str, **body: Any) -> tuple[Any, Any]:
    """Parameter and code of a 400."""
    response = client.post(path, json=body)
    assert response.status_code == 400, response.text
    error = error_of(response)
    return error["param"], error["code"]


def vectors(answer: Any) -> list[list[float]]:
    return [each["embedding"] for each in answer["data"]]


@pytest.mark.proves(
    embeddings="model input",
    Embeddings="object model data usage id created",
    Embedding="object index embedding",
    ReadingUsage="prompt_tokens total_tokens",
)
def test_given_several_texts_then_there_is_a_vector_for_each_in_order(client: httpx.Client) -> None:
    response = client.post(EMBEDDINGS, json={"model": "embed", "input": TEXTS})
    whole = response.json()
    assert (whole["object"], whole["model"]) == ("list", "embed")
    assert whole["created"] > 1.7e9
    assert whole["id"] == response.headers["x-request-id"]
    assert [(each["object"], each["index"]) for each in whole["data"]] == [("embedding", i) for i in range(3)]
    alone = [ask(client, EMBEDDINGS, model="embed", input=text) for text in TEXTS]
    for together, one in zip(vectors(whole), alone, strict=True):
        assert together == pytest.approx(vectors(one)[0], abs=1e-5)
        assert math.hypot(*together) == pytest.approx(1, abs=1e-5)
    assert whole["usage"]["prompt_tokens"] == whole["usage"]["total_tokens"]
    assert whole["usage"]["total_tokens"] == sum(one["usage"]["total_tokens"] for one in alone)


@pytest.mark.proves(embeddings="encoding_format")
def test_given_base64_then_the_bytes_are_those_of_the_numbers(client: httpx.Client) -> None:
    text = ask(client, EMBEDDINGS, model="embed", input="hello", encoding_format="base64")
    plain = ask(client, EMBEDDINGS, model="embed", input="hello", encoding_format="float")
    values = array("f", base64.b64decode(vectors(text)[0]))
    assert values.tolist() == vectors(plain)[0]


@pytest.mark.proves(embeddings="dimensions")
@pytest.mark.parametrize("model", ["embed", "chat"])
def test_given_dimensions_then_the_vector_is_its_beginning_at_length_1(client: httpx.Client, model: str) -> None:
    [whole] = vectors(ask(client, EMBEDDINGS, model=model, input="hello"))
    [cut] = vectors(ask(client, EMBEDDINGS, model=model, input="hello", dimensions=5))
    length = math.hypot(*whole[:5])
    assert cut == pytest.approx([value / length for value in whole[:5]], abs=1e-5)
    assert refused(client, EMBEDDINGS, model=model, input="hello", dimensions=len(whole) + 1) == (
        "dimensions",
        "invalid_value",
    )


@pytest.mark.proves(embeddings="add_special_tokens")
@pytest.mark.parametrize("model", ["embed", "chat"])
def test_given_token_ids_then_they_are_read_as_they_are(client: httpx.Client, model: str) -> None:
    text = ask(client, EMBEDDINGS, model=model, input="hello", add_special_tokens=False)
    count = text["usage"]["total_tokens"]
    tokens = [[10, 11, 12], [10]]
    both = ask(client, EMBEDDINGS, model=model, input=tokens)
    assert both["usage"]["total_tokens"] == 4
    one = ask(client, EMBEDDINGS, model=model, input=tokens[0])
    assert vectors(one)[0] == pytest.approx(vectors(both)[0], abs=1e-5)
    if model == "embed":
        assert ask(client, EMBEDDINGS, model=model, input="hello")["usage"]["total_tokens"] == count + 2


@pytest.mark.proves(
    embeddings="truncate_prompt_tokens", rerank="truncate_prompt_tokens", score="truncate_prompt_tokens",
    classify="truncate_prompt_tokens",
)  # fmt: skip
@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (EMBEDDINGS, {"model": "embed", "input": ["a", LONG]}, "input[1]"),
        (RERANK, {"model": "rank", "query": "a", "documents": ["b", LONG]}, "documents[1]"),
        (SCORE, {"model": "rank", "text_1": "a", "text_2": LONG}, "text_2"),
        (CLASSIFY, {"model": "class", "input": LONG}, "input"),
    ],
)
def test_given_a_text_that_is_too_long_then_it_is_refused_unless_it_is_to_be_cut(
    client: httpx.Client, path: str, body: dict[str, Any], field: str
) -> None:
    assert refused(client, path, **body) == (field, "context_length_exceeded")
    assert ask(client, path, **body, truncate_prompt_tokens=-1)["usage"]["total_tokens"] >= 64
    assert ask(client, path, **body, truncate_prompt_tokens=9)["usage"]["total_tokens"] <= 9 * 2
    assert refused(client, path, **body, truncate_prompt_tokens=1)[1] == "context_length_exceeded"


def test_given_a_cut_text_then_special_tokens_stay(client: httpx.Client) -> None:
    cut = ask(client, EMBEDDINGS, model="embed", input="hello world", truncate_prompt_tokens=3)
    same = ask(client, EMBEDDINGS, model="embed", input="hello hello", truncate_prompt_tokens=3)
    assert cut["usage"]["total_tokens"] == 3
    assert vectors(cut)[0] == pytest.approx(vectors(same)[0], abs=1e-6)


@pytest.mark.proves(
    rerank="model query documents top_n return_documents",
    Ranking="id model usage results",
    RankedDocument="index relevance_score document",
    Document="text",
)
@pytest.mark.parametrize("path", [RERANK, "/v1/rerank", "/v2/rerank"])
def test_given_documents_then_the_most_relevant_comes_first(client: httpx.Client, path: str) -> None:
    documents = [TEXTS[0], {"text": TEXTS[1]}, TEXTS[2]]
    body = {"model": "rank", "query": "one of them", "documents": documents}
    whole = ask(client, path, **body)
    assert whole["model"] == "rank"
    assert whole["id"].startswith("rerank-")
    assert whole["usage"]["total_tokens"] > 0
    scores = [each["relevance_score"] for each in whole["results"]]
    assert scores == sorted(scores, reverse=True)
    assert sorted(each["index"] for each in whole["results"]) == [0, 1, 2]
    assert all(each["document"]["text"] == TEXTS[each["index"]] for each in whole["results"])
    best = ask(client, path, **body, top_n=1, return_documents=False)["results"]
    assert [(each["index"], "document" in each) for each in best] == [(whole["results"][0]["index"], False)]


def test_given_a_mistake_at_coheres_path_then_the_error_has_openais_shape(client: httpx.Client) -> None:
    assert refused(client, "/v2/rerank", model="rank", query="", documents=["a"]) == ("query", "empty_input")


@pytest.mark.proves(rerank="max_tokens_per_doc")
@pytest.mark.parametrize("model", ["rank", "embed"])
def test_given_a_bound_for_documents_then_what_is_beyond_it_does_not_count(client: httpx.Client, model: str) -> None:
    body = {"model": model, "query": "hello"}
    long, short = "world hello it isn't here", "world hello"
    best = ask(client, RERANK, **body, documents=[long, short], max_tokens_per_doc=2)["results"]
    assert best[0]["relevance_score"] == pytest.approx(best[1]["relevance_score"], abs=1e-6)
    assert {each["document"]["text"] for each in best} == {long, short}
    whole = ask(client, RERANK, **body, documents=[long, short], max_tokens_per_doc=0)["results"]
    assert whole[0]["relevance_score"] != pytest.approx(whole[1]["relevance_score"], abs=1e-6)
    assert ask(client, RERANK, **body, documents=[LONG], max_tokens_per_doc=4096)["usage"]["total_tokens"] >= 64
    surrogate = client.post(
        RERANK, content=rb'{"model": "rank", "query": "a", "documents": ["\ud800"], "max_tokens_per_doc": 1}'
    )
    assert surrogate.status_code == 400


@pytest.mark.proves(
    score="model text_1 text_2 queries documents",
    Scores="id object created model data usage",
    Score="index object score",
)
@pytest.mark.parametrize("model", ["rank", "embed"])
def test_given_pairs_then_each_has_the_score_that_reranking_gives_it(client: httpx.Client, model: str) -> None:
    ranked = ask(client, RERANK, model=model, query=TEXTS[0], documents=TEXTS)["results"]
    expected = [each["relevance_score"] for each in sorted(ranked, key=lambda each: each["index"])]
    scored = ask(client, SCORE, model=model, text_1=TEXTS[0], text_2=TEXTS)
    assert (scored["object"], scored["model"], scored["id"][:6]) == ("list", model, "score-")
    assert scored["created"] > 1.7e9
    assert scored["usage"]["total_tokens"] > 0
    assert [(each["object"], each["index"]) for each in scored["data"]] == [("score", i) for i in range(3)]
    assert [each["score"] for each in scored["data"]] == pytest.approx(expected, abs=1e-5)
    by_pairs = ask(client, "/v1/score", model=model, queries=[TEXTS[0]] * 3, documents=TEXTS)
    assert [each["score"] for each in by_pairs["data"]] == pytest.approx(expected, abs=1e-5)


def test_given_an_embedder_then_the_score_is_the_cosine_of_its_vectors(client: httpx.Client) -> None:
    one, other = vectors(ask(client, EMBEDDINGS, model="embed", input=TEXTS[:2]))
    [scored] = ask(client, SCORE, model="embed", text_1=TEXTS[0], text_2=TEXTS[1])["data"]
    assert scored["score"] == pytest.approx(sum(a * b for a, b in zip(one, other, strict=True)), abs=1e-5)


@pytest.mark.proves(
    classify="model input add_special_tokens",
    Classifications="id object created model data usage",
    Classification="index label probs num_classes",
)
@pytest.mark.parametrize("model", ["class", "onnx"])
def test_given_texts_then_each_gets_its_likeliest_label(client: httpx.Client, model: str) -> None:
    whole = ask(client, CLASSIFY, model=model, input=TEXTS)
    assert (whole["object"], whole["model"], whole["id"][:9]) == ("list", model, "classify-")
    assert whole["created"] > 1.7e9
    assert [each["index"] for each in whole["data"]] == [0, 1, 2]
    for each in whole["data"]:
        assert each["num_classes"] == len(each["probs"]) == len(LABELS)
        assert sum(each["probs"]) == pytest.approx(1, abs=1e-5)
        assert each["label"] == LABELS[each["probs"].index(max(each["probs"]))]
    bare = ask(client, CLASSIFY, model=model, input=TEXTS, add_special_tokens=False)
    assert bare["usage"]["total_tokens"] == whole["usage"]["total_tokens"] - 6


def test_the_openai_client_reads_vectors_of_an_encoder_and_of_a_generator(served: tuple[Live, ModelRegistry]) -> None:
    with OpenAI(base_url=f"{served[0].url}/v1", api_key="unused", max_retries=0, timeout=20) as client:
        for model in ("embed", "chat"):
            answer = client.embeddings.create(model=model, input=TEXTS)  # asks for base64 by itself
            assert [each.index for each in answer.data] == [0, 1, 2]
            assert all(math.hypot(*each.embedding) == pytest.approx(1, abs=1e-5) for each in answer.data)
            plain = client.embeddings.create(model=model, input=TEXTS, encoding_format="float")
            assert plain.data[2].embedding == pytest.approx(answer.data[2].embedding, abs=1e-5)
            assert answer.usage.total_tokens > 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (EMBEDDINGS, {"model": "rank", "input": "a"}),
        (EMBEDDINGS, {"model": "class", "input": [[5]]}),
        (RERANK, {"model": "chat", "query": "a", "documents": ["b"]}),
        (SCORE, {"model": "class", "text_1": "a", "text_2": "b"}),
        (CLASSIFY, {"model": "embed", "input": "a"}),
        (CLASSIFY, {"model": "chat", "input": "a"}),
        ("/v1/completions", {"model": "embed", "prompt": "a"}),
        ("/v1/chat/completions", {"model": "rank", "messages": [{"role": "user", "content": "a"}]}),
        ("/tokenize", {"model": "rank", "prompt": "a"}),
    ],
)
def test_given_a_model_of_another_kind_then_the_error_says_what_it_is(
    client: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    response = client.post(path, json=body)
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (400, "model", "wrong_model_kind")
    assert "'generator'" in error["message"] or "er'" in error["message"]


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        (EMBEDDINGS, {"input": ""}, "input", "empty_input"),
        (EMBEDDINGS, {"input": ["a", ""]}, "input[1]", "empty_input"),
        (EMBEDDINGS, {"input": []}, "input", "invalid_value"),
        (EMBEDDINGS, {"input": [[1], []]}, "input[1]", "empty_input"),
        (EMBEDDINGS, {"input": [[1], "a"]}, "input", "invalid_value"),
        (EMBEDDINGS, {"input": [["a"]]}, "input[0][0]", "invalid_value"),
        (EMBEDDINGS, {"input": [1, "a"]}, "input", "invalid_value"),
        (EMBEDDINGS, {"input": [[10_000]]}, "input[0]", "invalid_token_id"),
        (EMBEDDINGS, {"input": [-1]}, "input", "invalid_token_id"),
        (EMBEDDINGS, {"input": [[5] * 65]}, "input[0]", "context_length_exceeded"),
        (EMBEDDINGS, {"input": ["a"] * 2049}, "input", "too_many_inputs"),
        (EMBEDDINGS, {"input": "a", "encoding_format": "bytes"}, "encoding_format", "invalid_value"),
        (EMBEDDINGS, {"input": "a", "dimensions": 0}, "dimensions", "invalid_value"),
        (EMBEDDINGS, {}, "input", "missing_field"),
        (RERANK, {"query": "", "documents": ["a"]}, "query", "empty_input"),
        (RERANK, {"query": "a", "documents": []}, "documents", "invalid_value"),
        (RERANK, {"query": "a", "documents": ["b", ""]}, "documents[1]", "empty_input"),
        (RERANK, {"query": "a", "documents": ["b"] * 2049}, "documents", "too_many_inputs"),
        (SCORE, {"text_1": "a"}, "text_2", "missing_field"),
        (SCORE, {}, "text_1", "missing_field"),
        (SCORE, {"text_1": ["a", "b"], "text_2": ["c"]}, "text_2", "invalid_value"),
        (SCORE, {"text_1": "a", "text_2": "b", "queries": "c"}, "queries", "invalid_value"),
        (CLASSIFY, {"input": ["a", ""]}, "input[1]", "empty_input"),
    ],
)
def test_given_bad_input_then_the_400_names_the_field(
    client: httpx.Client, path: str, body: dict[str, Any], param: str, code: str
) -> None:
    model = {EMBEDDINGS: "embed", RERANK: "rank", SCORE: "rank", CLASSIFY: "class"}[path]
    assert refused(client, path, model=model, **body) == (param, code)
    if path == RERANK:
        assert refused(client, path, model="embed", **body)[1] == code


def test_given_text_that_is_not_unicode_then_the_400_names_the_field(client: httpx.Client) -> None:
    response = client.post(EMBEDDINGS, content=rb'{"model": "embed", "input": ["a", "\ud800"]}')
    assert response.status_code == 400


def test_given_an_encoder_with_adapters_then_it_is_refused(tmp_path: Path) -> None:
    config = EngineConfig(model_path=str(write_encoder(tmp_path, "embedder")), lora_modules=(("x", "x"),))
    with pytest.raises(ConfigError, match="is an encoder, and adapters are for generators"):
        make_engine(config, [])


@pytest.mark.proves(embeddings="priority cache_salt")
def test_given_a_priority_and_a_salt_then_the_engine_gets_them(
    served: tuple[Live, ModelRegistry], client: httpx.Client
) -> None:
    engine: Any = served[1].entries[0].served.engine  # type: ignore[union-attr]
    ask(client, EMBEDDINGS, model="chat", input="hello", priority=-3, cache_salt="mine")
    asked = engine.added[-1]
    assert (asked.priority, asked.cache_salt, asked.pooling) == (-3, "mine", "last")


def test_the_models_are_listed_and_batches_are_counted(client: httpx.Client) -> None:
    ask(client, EMBEDDINGS, model="embed", input=TEXTS)
    cards = {card["id"]: card for card in client.get("/v1/models").json()["data"]}
    assert (cards["embed"]["max_model_len"], cards["rank"]["max_model_len"]) == (64, 64)
    lines = client.get("/metrics").text.splitlines()
    counted = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}
    assert counted['penstock_encoder_batch_texts_count{model="embed"}'] >= 1
    assert counted['penstock_encoder_queue_seconds_count{model="embed"}'] >= 3
    assert counted['penstock_encoder_tokens_total{model="embed"}'] >= 12
    assert counted['penstock_sequences_finished_total{model="embed",reason="stop"}'] >= 3
    assert counted['penstock_engine_state{model="embed",state="ready"}'] == 1
    assert 'penstock_kv_blocks{model="embed"}' not in counted


def test_given_an_encoder_that_is_killed_then_the_server_goes_on_and_starts_it_again(
    served: tuple[Live, ModelRegistry], client: httpx.Client
) -> None:
    engine: Any = next(entry for entry in served[1].entries if entry.name == "class").served.engine  # type: ignore[union-attr]
    os.kill(engine.pid, signal.SIGKILL)
    asyncio.run(eventually(lambda: engine.restarts == 1 and engine.state == "ready", "the encoder is up again"))
    assert client.get("/health").json()["models"]["embed"] == "ready"
    assert len(ask(client, CLASSIFY, model="class", input="hello")["data"]) == 1
