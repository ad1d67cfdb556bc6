"""NVIDIA's HTTP client, unmodified, and the generate extension, against the server."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from penstock.core.errors import PenstockError
from support.asking import ask
from support.eventually import eventually
from support.fake_engine import FakeEngine
from support.kserve_server import KServeServer, kserve_server
from support.listening import client_of as http_client_of
from support.triton_clients import of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

MODEL = "Echo-1B"
INFER = f"/v2/models/{MODEL}/infer"
GENERATE = f"/v2/models/{MODEL}/generate"
STREAM = f"/v2/models/{MODEL}/generate_stream"
GREEDY = {"temperature": 0.0, "max_tokens": 20, "exclude_input_in_output": True}


@contextmanager
def client_of(server: KServeServer) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(server.http)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture(scope="module")
def server(echo_model: Path) -> Iterator[KServeServer]:
    with kserve_server(FakeEngine(echo_model), aliases=["owner/other"]) as server:
        yield server


@pytest.fixture
def client(server: KServeServer) -> Iterator[triton.InferenceServerClient]:
    with client_of(server) as client:
        yield client


@pytest.fixture
def engine(echo_model: Path) -> FakeEngine:
    return FakeEngine(echo_model)


def data_of(text: str) -> list[dict[str, Any]]:
    """The data of each event."""
    frames = [frame for frame in text.split("\n\n") if frame]
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames), text
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


def test_given_a_server_when_asked_about_itself_and_its_model_then_it_tells(
    client: triton.InferenceServerClient,
) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready("owner/other", "1")
    assert not client.is_model_ready(MODEL, "2")
    assert not client.is_model_ready("unknown")
    assert client.get_server_metadata()["name"] == "penstock"
    metadata = client.get_model_metadata("owner/other")
    assert metadata["name"] == "owner/other"
    assert {"name": "text_input", "datatype": "BYTES", "shape": [1]} in metadata["inputs"]
    config = client.get_model_config(MODEL, "1")
    assert config["model_transaction_policy"] == {"decoupled": True}
    assert {"name": "top_p", "data_type": "TYPE_FP32", "dims": [1], "optional": True} in config["input"]
    (counted,) = client.get_inference_statistics(MODEL, "1")["model_stats"]
    assert (counted["name"], counted["inference_stats"]["cache_hit"]) == (MODEL, {"count": 0, "ns": 0})
    row = {"name": MODEL, "version": "1", "state": "READY", "reason": ""}
    assert client.get_model_repository_index() == [row]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("request_compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_compression", [None, "gzip", "deflate"])
def test_given_any_form_of_body_when_inferred_then_the_answer_is_the_same(
    client: triton.InferenceServerClient,
    request_compression: str | None,
    response_compression: str | None,
    *,
    binary: bool,
) -> None:
    inputs = of(triton, text_input="hé", return_num_output_tokens=True, return_cumulative_logprob=True, **GREEDY)
    if not binary:
        text = triton.InferInput("text_input", [1], "BYTES")
        text.set_data_from_numpy(np.array(["hé"], dtype=np.object_), binary_data=False)
        inputs[0] = text
    names = ("text_output", "num_output_tokens", "cumulative_logprob")
    result = client.infer(
        MODEL,
        inputs,
        outputs=[triton.InferRequestedOutput(name, binary_data=binary) for name in names],
        request_id="7",
        request_compression_algorithm=request_compression,
        response_compression_algorithm=response_compression,
    )
    assert result.as_numpy("text_output").tolist() in ([b"h\xc3\xa9"], ["hé"])
    assert result.as_numpy("num_output_tokens").tolist() == [4]
    assert result.as_numpy("cumulative_logprob")[0] == pytest.approx(-2.8)
    assert result.get_response()["id"] == "7"


def test_given_no_word_on_outputs_when_inferred_by_the_client_then_they_come_in_binary(
    client: triton.InferenceServerClient,
) -> None:
    result = client.infer(MODEL, of(triton, batch=True, text_input="abc", **GREEDY))
    assert result.as_numpy("text_output").tolist() == [[b"abc"]]
    (output,) = result.get_response()["outputs"]
    assert output["parameters"] == {"binary_data_size": 7}


def test_given_a_plain_json_request_when_inferred_then_the_answer_is_plain_json(engine: FakeEngine) -> None:
    body = {
        "id": "a",
        "inputs": [
            {"name": "text_input", "datatype": "BYTES", "shape": [1, 1], "data": [["abc"]]},
            {"name": "temperature", "datatype": "FP32", "shape": [1], "data": [0]},
        ],
    }
    response = ask(engine, "POST", INFER, body)
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "model_name": MODEL,
        "model_version": "1",
        "id": "a",
        "outputs": [{"name": "text_output", "datatype": "BYTES", "shape": [1, 1], "data": ["abcabc"]}],
    }


def test_given_the_asyncio_client_when_it_infers_then_it_gets_the_same(server: KServeServer) -> None:
    async def run() -> Any:
        async with triton_aio.InferenceServerClient(server.http) as client:
            assert await client.is_model_ready(MODEL)
            result = await client.infer(MODEL, of(triton, text_input="abc", **GREEDY))
            return result.as_numpy("text_output").tolist()

    assert asyncio.run(run()) == [b"abc"]


def test_given_an_error_when_the_client_asks_then_it_reads_the_message(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="'unknown' is not served here") as failed:
        client.infer("unknown", of(triton, text_input="a"))
    assert failed.value.status() == "404"
    with pytest.raises(InferenceServerException, match="There is no input 'max_token'"):
        client.infer(MODEL, of(triton, text_input="a", max_token=3))
    with pytest.raises(InferenceServerException, match="Clients may not load and unload models here") as failed:
        client.load_model("any")
    assert failed.value.status() == "400"
    for call in (
        lambda: client.unload_model("any"),
        client.get_system_shared_memory_status,
        lambda: client.register_cuda_shared_memory("a", b"aGk=", 0, 16),
        client.get_trace_settings,
        lambda: client.get_trace_settings(MODEL),
        client.get_log_settings,
    ):
        with pytest.raises(InferenceServerException) as failed:
            call()
        assert failed.value.status() == "400"


def test_given_a_text_when_generated_then_the_answer_has_it_by_name_after_the_prompt(engine: FakeEngine) -> None:
    body = {"text_input": "abc", "parameters": {"temperature": 0, "stream": False, "max_tokens": 2}}
    for path in (GENERATE, GENERATE.replace("/generate", "/versions/1/generate")):
        response = ask(engine, "POST", path, body)
        assert response.json() == {"model_name": MODEL, "model_version": "1", "text_output": "abcab"}


def test_given_inputs_beside_and_among_the_parameters_when_generated_then_both_count(engine: FakeEngine) -> None:
    body = {
        "text_input": "abcdef",
        "stop_words": ["d", ""],
        "id": "x",
        "parameters": {"temperature": 0, "exclude_input_in_output": True, "return_finish_reason": True, "n": 2},
    }
    assert ask(engine, "POST", GENERATE, body).json() == {
        "model_name": MODEL,
        "model_version": "1",
        "id": "x",
        "text_output": ["abc", "abc"],
        "finish_reason": ["stop", "stop"],
    }


def test_given_a_text_when_generated_as_a_stream_then_each_event_is_a_piece(engine: FakeEngine) -> None:
    body = {"text_input": "hello", "stream": True, "temperature": 0, "return_finish_reason": True}
    response = ask(engine, "POST", STREAM, body)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = data_of(response.text)
    assert "".join(event["text_output"] for event in events) == "hello"
    assert [event["finish_reason"] for event in events] == ["None"] * (len(events) - 1) + ["stop"]


def test_given_no_wish_for_pieces_when_generated_as_a_stream_then_there_is_one_event(engine: FakeEngine) -> None:
    response = ask(engine, "POST", STREAM, {"text_input": "hello", "temperature": 0})
    (event,) = data_of(response.text)
    assert event["text_output"] == "hellohello"


def test_given_a_wish_for_pieces_when_generated_at_once_then_it_is_told_where_to_go(engine: FakeEngine) -> None:
    response = ask(engine, "POST", GENERATE, {"text_input": "hello", "stream": True})
    assert (response.status_code, response.json()["param"]) == (400, "stream")
    assert "generate_stream" in response.json()["error"]


def test_given_a_failure_after_the_first_event_when_streamed_then_the_last_event_is_the_error(
    engine: FakeEngine,
) -> None:
    engine.failure = PenstockError("The model broke.")
    *_, last = data_of(ask(engine, "POST", STREAM, {"text_input": "hello", "stream": True}).text)
    assert last["error"] == "The model broke."


@pytest.mark.parametrize("path", [INFER, GENERATE, STREAM])
def test_given_a_client_that_hangs_up_when_a_request_runs_then_it_is_aborted(echo_model: Path, path: str) -> None:
    engine = FakeEngine(echo_model, held=True)
    body: dict[str, Any] = {"text_input": "abc", "stream": path == STREAM}
    if path == INFER:
        body = {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["abc"]}]}

    async def run() -> None:
        async with http_client_of(engine) as client:
            asking = asyncio.create_task(client.post(path, json=body))
            await eventually(lambda: engine.running == 1, "it runs")
            asking.cancel()
            await eventually(lambda: engine.running == 0, "it is aborted")

    asyncio.run(run())


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of an answer, which must have the protocol's shape."""
    assert response.headers["content-type"] == "application/json"
    error: dict[str, Any] = response.json()
    assert set(error) == {"error", "param", "code"}
    assert isinstance(error["error"], str)
    return error


def test_given_guards_when_they_refuse_then_they_do_in_the_protocols_shape(engine: FakeEngine) -> None:
    closed = ask(engine, "GET", "/v2", api_keys=["k"])
    assert (closed.status_code, error_of(closed)["code"]) == (401, "missing_api_key")
    for probe in ("/v2/health/live", "/v2/health/ready"):
        assert ask(engine, "GET", probe, api_keys=["k"]).status_code == 200
        assert ask(engine, "GET", probe, api_keys=["k"], public_probes=False).status_code == 401
    foreign = ask(engine, "GET", "/v2", headers={"origin": "https://evil.example"})
    assert (foreign.status_code, error_of(foreign)["code"]) == (403, "origin_not_allowed")
    large = ask(engine, "GET", "/v2", headers={"x": "y" * 5000}, max_header_bytes=4096)
    assert (large.status_code, error_of(large)["code"]) == (431, "head_too_large")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v2/nothing", 404), ("GET", "/v2/", 404), ("POST", f"/v2/models/{MODEL}", 405), ("GET", INFER, 405)],
)
def test_given_a_path_or_method_that_is_not_there_when_asked_then_the_protocols_error_says_so(
    engine: FakeEngine, method: str, path: str, status: int
) -> None:
    response = ask(engine, method, path)
    assert response.status_code == status
    error_of(response)


@pytest.mark.parametrize("version", ["", "/versions/1"])
@pytest.mark.parametrize("call", ["infer", "generate", "generate_stream"])
def test_given_a_call_that_is_to_be_posted_when_got_then_the_error_says_so(
    engine: FakeEngine, call: str, version: str
) -> None:
    response = ask(engine, "GET", f"/v2/models/{MODEL}{version}/{call}")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert "takes POST" in error_of(response)["error"]


def test_given_an_engine_that_is_down_when_asked_then_readiness_is_a_503(engine: FakeEngine) -> None:
    engine.state = "restarting"
    for path in ("/v2/health/ready", f"/v2/models/{MODEL}/ready"):
        response = ask(engine, "GET", path)
        assert response.status_code == 503
        error_of(response)
    assert ask(engine, "GET", "/v2/health/live").status_code == 200
    (row,) = ask(engine, "POST", "/v2/repository/index", {}).json()
    assert (row["state"], row["reason"]) == ("UNAVAILABLE", "The engine core died and is being started again.")
    assert ask(engine, "POST", "/v2/repository/index", {"ready": True}).json() == []
    refused = ask(engine, "POST", GENERATE, {"text_input": "a"})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


TEXT = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["abc"]}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"\xff", "not valid JSON"),
        (b'{"inputs": [{"name": "a", "datatype": "BYTES", "shape": [1], "data": ' + b"[" * 100_000, "not valid"),
        ({"inputs": [{**TEXT, "data": [[[[[[[[[["a"]]]]]]]]]]}]}, "is not BYTES"),
        ({}, "'inputs' is missing"),
        ({"inputs": []}, "The input 'text_input' is missing"),
        ({"inputs": [TEXT], "input": []}, "unknown field"),
        ({"inputs": [{**TEXT, "dims": [1]}]}, "unknown field"),
        ({"inputs": [TEXT, TEXT]}, "is there twice"),
        ({"inputs": [{**TEXT, "datatype": "INT32"}]}, "it must be BYTES"),
        ({"inputs": [{**TEXT, "shape": [2], "data": ["a", "b"]}]}, "it holds one element"),
        ({"inputs": [{**TEXT, "shape": [2, 1], "data": ["a", "b"]}]}, "send each text as one"),
        ({"inputs": [{**TEXT, "shape": [-1]}]}, "can't be -1"),
        ({"inputs": [{**TEXT, "shape": ["1"]}]}, "'inputs[0].shape"),
        ({"inputs": [{**TEXT, "data": []}]}, "has 0 elements"),
        ({"inputs": [{**TEXT, "data": [1]}]}, "is not BYTES"),
        ({"inputs": [{**TEXT, "data": ["a", ["b"]]}]}, "mixes elements and lists"),
        ({"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1]}]}, "'inputs[0].data' is missing"),
        ({"inputs": [{**TEXT, "parameters": {"binary_data_size": 3}}]}, "has its data twice"),
        ({"inputs": [{**TEXT, "parameters": {"shared_memory_region": "a"}}]}, "'shared_memory_region'"),
        ({"inputs": [TEXT], "outputs": [{"name": "nothing"}]}, "There is no output 'nothing'"),
        ({"inputs": [TEXT], "outputs": [{"name": "text_output", "parameters": {"classification": 3}}]}, "nothing"),
        ({"inputs": [TEXT], "outputs": [{"name": "text_output", "parameters": {"binary_data": 1}}]}, "true or false"),
        ({"inputs": [TEXT], "parameters": {"sequence_id": 7}}, "keep no state"),
        ({"inputs": [TEXT], "parameters": {"timeout": 7}}, "own deadline"),
        ({"inputs": [TEXT], "parameters": {"binary_data_output": "yes"}}, "true or false"),
        ({"inputs": [TEXT], "parameters": {"max_token": 7}}, "Did you mean 'max_tokens'?"),
        ({"inputs": [TEXT], "parameters": {"user": "me"}}, "no sampling parameter 'user'"),
        ({"inputs": [TEXT], "parameters": {"best_of": 2}}, "'best_of' is not supported"),
        ({"inputs": [{**TEXT, "data": [""]}]}, "holds no tokens"),
        ({"inputs": [{**TEXT, "data": ["a" * 600]}]}, "Shorten the prompt"),
    ],
)  # fmt: skip
def test_given_a_body_that_is_wrong_when_inferred_then_it_is_a_400_that_says_where(
    engine: FakeEngine, body: Any, said: str
) -> None:
    response = ask(engine, "POST", INFER, body)
    assert response.status_code == 400
    assert said in error_of(response)["error"]
    assert not engine.added


def binary_body(*, size: int, tail: bytes) -> bytes:
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": size}}
    return json.dumps({"inputs": [tensor]}).encode() + tail


PACKED = struct.pack("<I", 3) + b"abc"


@pytest.mark.parametrize(
    ("size", "tail", "header", "said"),
    [
        (7, PACKED, "-1", "Inference-Header-Content-Length"),
        (7, PACKED, "9" * 30, "Inference-Header-Content-Length"),
        (7, PACKED, "4", "not valid JSON"),
        (7, PACKED, None, "not valid JSON"),
        (8, PACKED, "", "is 8 bytes long, and 7 are left"),
        (7, PACKED + b"x", "", "goes on for 1 bytes"),
        (6, PACKED[:-1], "", "ends within element 0"),
        (7, struct.pack("<I", 3) + b"\xff\xfe\xfd", "", "'text_input' is not valid UTF-8"),
    ],
)
def test_given_binary_data_that_disagrees_with_its_head_when_inferred_then_it_is_a_400(
    engine: FakeEngine, size: int, tail: bytes, header: str | None, said: str
) -> None:
    body = binary_body(size=size, tail=tail)
    headers = {}
    if header is not None:
        headers["inference-header-content-length"] = header or str(len(body) - len(tail))
    response = ask(engine, "POST", INFER, body, headers=headers)
    assert response.status_code == 400
    assert said in error_of(response)["error"]


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", b"{}", 400),
        ("gzip", b"{}", 400),
        ("gzip", gzip.compress(b"{}")[:-4], 400),
        ("gzip", gzip.compress(b"{}") + b"more", 400),
        ("deflate", b"{}", 400),
        ("gzip", gzip.compress(b" " * 10_000_000), 413),
        ("deflate", zlib.compress(b" " * 10_000_000), 413),
    ],
)
def test_given_a_compressed_body_that_is_damaged_or_too_large_when_inferred_then_it_is_refused(
    engine: FakeEngine, encoding: str, body: bytes, status: int
) -> None:
    response = ask(engine, "POST", INFER, body, headers={"content-encoding": encoding})
    assert response.status_code == status
    error_of(response)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"[]", "must be a JSON object"),
        ({}, "The input 'text_input' is missing"),
        ({"text_input": 3}, "is not BYTES"),
        ({"text_input": "a", "parameters": 3}, "'parameters' must be an object"),
        ({"text_input": "a", "parameters": {"text_input": "b"}}, "is there twice"),
        ({"text_input": "a", "image": "x"}, "only text goes in"),
        ({"text_input": "a", "max_tokens": 1.5}, "is not INT32"),
        ({"text_input": "a", "max_tokens": 600}, "over the model's context"),
        ({"text_input": "a", "temperature": 3}, "'temperature' is not valid"),
        ({"text_input": "a", "random_seed": -1}, "not within UINT64"),
        ({"text_input": "a", "min_length": -1}, "'min_length' is not valid"),
        ({"text_input": "a", "sampling_parameters": "{"}, "a JSON object in a string"),
        ({"text_input": "a", "sampling_parameters": "[]"}, "a JSON object in a string"),
        ({"text_input": "a", "structured_outputs": "{"}, "'structured_outputs' must be a JSON object"),
        ({"text_input": "a", "guided_decoding": "{}"}, "send 'structured_outputs'"),
        ({"text_input": "a", "lora_name": "x"}, "ask for the adapter as the model"),
        ({"text_input": "a", "sampling_parameters": '{"temperature": "hot"}'}, "'temperature' is not valid"),
        ({"text_input": "a", "temperature": 0, "sampling_parameters": '{"temperature": 1}'}, "set the same"),
        ({"text_input": "a", "n": 2, "sampling_parameters": '{"n": 1}'}, "among the request's parameters"),
        ({"text_input": "a", "sampling_parameters": '{"prompt": "b"}'}, "no sampling parameter 'prompt'"),
        ({"text_input": "a", "beam_width": 2}, "no beam search"),
        ({"text_input": "a", "return_context_logits": True}, "logits don't come"),
        ({"text_input": "a", "end_id": 320}, "this model's tokens are 0 to 319"),
        ({"text_input": "a", "end_id": -2}, "this model's tokens are 0 to 319"),
        ({"text_input": "a", "embedding_bias_words": ["b"]}, "each word needs one"),
        ({"text_input": "a", "embedding_bias_words": ["b"], "embedding_bias_weights": [101]}, "from -100 to 100"),
        ({"text_input": "a", "stop_words": ["b"] * 17}, "'stop_words' is not valid"),
        ({"text_input": "a", "stream": True, "exclude_input_in_output": False}, "doesn't begin with the prompt"),
    ],
)
def test_given_a_body_that_is_wrong_when_generated_then_it_is_a_400_that_says_where(
    engine: FakeEngine, body: Any, said: str
) -> None:
    response = ask(engine, "POST", GENERATE, body)
    assert response.status_code == 400
    assert said in error_of(response)["error"]
    assert not engine.added
