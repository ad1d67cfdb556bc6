"""Encoders over the protocol, by NVIDIA's clients, HTTP and gRPC: the same as over the REST endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from starlette.applications import Starlette
from tritonclient.utils import InferenceServerException

from penstock.server.kserve.grpc_server import GrpcListener
from penstock.server.kserve.protocol import KServe
from penstock.server.observe import Observer
from penstock.server.service import Service
from penstock.server.settings import ServerSettings
from support.encoder_server import serving
from support.tiny_encoders import LABELS, write_encoder, write_pooling
from support.triton_clients import of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.live_server import Live

TEXTS = ["hello world", "it isn't here", "one, two, three thousand and 45 of them"]
LONG = "hello " * 100


@pytest.fixture(scope="module")
def served(echo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Live, str]]:
    made = {name: tmp_path_factory.mktemp(name) for name in ("embed", "rank", "class")}
    write_pooling(write_encoder(made["embed"], "embedder"), "mean_tokens", normalize=True)
    write_encoder(made["rank"], "reranker")
    write_encoder(made["class"], "classifier")
    with serving(echo_model, made) as (live, registry):
        settings, observer = ServerSettings(port=0, grpc_port=0), Observer()
        listener = live.call(GrpcListener, settings)
        kserve = KServe(Service(registry, settings, observer, Starlette()))
        live.call(listener.start, kserve, observer)
        try:
            yield live, listener.url.removeprefix("grpc://")
        finally:
            live.call(listener.stop, 1)


@pytest.fixture(params=["http", "grpc"])
def triton(request: pytest.FixtureRequest, served: tuple[Live, str]) -> Iterator[tuple[Any, Any]]:
    """A client, and the module that it is of."""
    module = triton_http if request.param == "http" else triton_grpc
    place = served[0].url.removeprefix("http://") if request.param == "http" else served[1]
    client = module.InferenceServerClient(place)
    yield client, module
    client.close()


@pytest.fixture(scope="module")
def rest(served: tuple[Live, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served[0].url, timeout=20) as client:
        yield client


def infer(triton: tuple[Any, Any], model: str, **inputs: Any) -> Any:
    client, module = triton
    return client.infer(model, of(module, **inputs))


def metadata_of(triton: tuple[Any, Any], model: str) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Names and shapes of the inputs, and of the outputs."""
    client, module = triton
    if module is triton_http:
        found = client.get_model_metadata(model)
    else:
        found = client.get_model_metadata(model, as_json=True)
    shapes = [{each["name"]: [*map(int, each["shape"])] for each in found[side]} for side in ("inputs", "outputs")]
    return shapes[0], shapes[1]


def test_given_an_encoder_when_asked_about_then_its_own_tensors_are_told(triton: tuple[Any, Any]) -> None:
    cut = {"text_input": [-1], "truncate_prompt_tokens": [1]}
    assert metadata_of(triton, "embed") == ({**cut, "dimensions": [1]}, {"embedding": [-1, 48]})
    assert metadata_of(triton, "rank") == ({**cut, "query": [1]}, {"score": [-1]})
    assert metadata_of(triton, "class") == (cut, {"label": [-1], "probs": [-1, len(LABELS)]})
    assert "max_tokens" in metadata_of(triton, "chat")[0]


def test_given_an_encoder_when_its_configuration_is_asked_for_then_it_has_one_response(
    served: tuple[Live, str], rest: httpx.Client
) -> None:
    config = rest.get("/v2/models/rank/config").json()
    assert config["model_transaction_policy"] == {"decoupled": False}
    required = [each["name"] for each in config["input"] if not each["optional"]]
    assert required == ["text_input", "query"]
    assert config["output"] == [{"name": "score", "data_type": "TYPE_FP32", "dims": [-1]}]


@pytest.mark.parametrize("in_rows", [False, True])
def test_given_texts_when_inferred_then_the_vectors_are_those_of_the_embeddings_endpoint(
    triton: tuple[Any, Any], rest: httpx.Client, *, in_rows: bool
) -> None:
    client, module = triton
    texts = np.array([text.encode() for text in TEXTS], dtype=np.object_)
    texts = texts[:, None] if in_rows else texts
    tensor = module.InferInput("text_input", list(texts.shape), "BYTES")
    tensor.set_data_from_numpy(texts)
    answer = client.infer("embed", [tensor], request_id="7")
    expected = rest.post("/v1/embeddings", json={"model": "embed", "input": TEXTS}).json()
    found = answer.as_numpy("embedding")
    np.testing.assert_allclose(found, [each["embedding"] for each in expected["data"]], atol=1e-5)
    cut = infer(triton, "embed", text_input=TEXTS, dimensions=5).as_numpy("embedding")
    np.testing.assert_allclose(cut, found[:, :5] / np.linalg.norm(found[:, :5], axis=1, keepdims=True), atol=1e-5)


def test_given_a_query_and_texts_when_inferred_then_the_scores_are_the_rerankers(
    triton: tuple[Any, Any], rest: httpx.Client
) -> None:
    body = {"model": "rank", "text_1": "hello", "text_2": TEXTS}
    expected = [each["score"] for each in rest.post("/score", json=body).json()["data"]]
    scores = infer(triton, "rank", text_input=TEXTS, query="hello").as_numpy("score")
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_given_texts_when_inferred_then_each_gets_its_class(triton: tuple[Any, Any], rest: httpx.Client) -> None:
    expected = rest.post("/classify", json={"model": "class", "input": TEXTS}).json()["data"]
    answer = infer(triton, "class", text_input=TEXTS)
    np.testing.assert_allclose(answer.as_numpy("probs"), [each["probs"] for each in expected], atol=1e-5)
    assert [label.decode() for label in answer.as_numpy("label")] == [each["label"] for each in expected]


def test_given_one_text_when_generated_from_then_the_vector_is_a_list(rest: httpx.Client) -> None:
    expected = rest.post("/v1/embeddings", json={"model": "embed", "input": TEXTS[0]}).json()["data"][0]["embedding"]
    body = {"text_input": TEXTS[0], "id": "9"}
    for path in ("generate", "generate_stream"):
        response = rest.post(f"/v2/models/embed/{path}", json=body)
        assert response.status_code == 200, response.text
    answer = rest.post("/v2/models/embed/generate", json=body).json()
    assert (answer["model_name"], answer["id"]) == ("embed", "9")
    assert answer["embedding"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("model", "inputs", "problem"),
    [
        ("embed", {}, "input"),
        ("embed", {"text_input": "a", "max_tokens": 3}, "no input 'max_tokens'"),
        ("embed", {"text_input": "a", "dimensions": 49}, "have 48"),
        ("embed", {"text_input": "a", "dimensions": 0}, "can't be 0"),
        ("embed", {"text_input": "a", "truncate_prompt_tokens": -2}, "can't be -2"),
        ("embed", {"text_input": ["a", ""]}, "is empty"),
        ("embed", {"text_input": LONG}, "the model reads 64"),
        ("embed", {"text_input": b"\xff"}, "not valid UTF-8"),
        ("rank", {"text_input": "a"}, "'query' is missing"),
        ("rank", {"text_input": "a", "query": ["a", "b"]}, "one element"),
        ("class", {"query": "a", "text_input": "a"}, "no input 'query'"),
    ],
)
def test_given_tensors_that_an_encoder_has_not_when_inferred_then_it_is_said_which(
    triton: tuple[Any, Any], model: str, inputs: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InferenceServerException, match=problem) as failed:
        infer(triton, model, **inputs)
    assert failed.value.status() in {"400", "StatusCode.INVALID_ARGUMENT"}


def test_given_a_long_text_when_it_may_be_cut_then_it_is_read(triton: tuple[Any, Any]) -> None:
    answer = infer(triton, "embed", text_input=[LONG], truncate_prompt_tokens=-1)
    assert answer.as_numpy("embedding").shape == (1, 48)


def test_given_shapes_parameters_and_outputs_that_are_not_there_then_they_are_refused(rest: httpx.Client) -> None:
    texts = {"name": "text_input", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "b"]}
    fitting = {**texts, "shape": [2]}
    for body, problem in (
        ({"inputs": [texts]}, "must be [texts] or [texts, 1]"),
        ({"inputs": [fitting], "parameters": {"temperature": 0}}, "'temperature' is not supported"),
        ({"inputs": [fitting], "outputs": [{"name": "text_output"}]}, "no output 'text_output'"),
    ):
        response = rest.post("/v2/models/embed/infer", json=body)
        assert (response.status_code, problem in response.text) == (400, True), response.text


def test_given_requests_when_statistics_are_asked_for_then_the_encoders_are_counted(rest: httpx.Client) -> None:
    def counts() -> tuple[int, int]:
        (found,) = rest.get("/v2/models/class/stats").json()["model_stats"]
        return found["inference_stats"]["success"]["count"], found["inference_stats"]["fail"]["count"]

    before = counts()
    rest.post("/v2/models/class/generate", json={"text_input": "a"})
    rest.post("/v2/models/class/generate", json={"text_input": LONG})
    assert counts() == (before[0] + 1, before[1] + 1)
