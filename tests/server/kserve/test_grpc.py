"""NVIDIA's gRPC client, unmodified, against the server."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

import penstock
from penstock.core.errors import ConfigError
from penstock.server.kserve import inference_pb2 as pb
from penstock.server.kserve.grpc_calls import MAX_ON_A_STREAM, Calls
from penstock.server.kserve.grpc_server import GrpcListener
from penstock.server.kserve.health_pb2 import HealthCheckRequest, HealthCheckResponse
from penstock.server.settings import ServerSettings
from support.eventually import eventually
from support.fake_engine import FakeEngine
from support.kserve_server import KServeServer, kserve_server
from support.listening import app_over
from support.triton_clients import of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

MODEL = "Echo-1B"
GREEDY = {"temperature": 0.0, "max_tokens": 20, "exclude_input_in_output": True}


@contextmanager
def client_of(server: KServeServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc) as client:
        yield client


@pytest.fixture(scope="module")
def server(echo_model: Path) -> Iterator[KServeServer]:
    with kserve_server(FakeEngine(echo_model), aliases=["other"]) as server:
        yield server


@pytest.fixture
def client(server: KServeServer) -> Iterator[triton.InferenceServerClient]:
    with client_of(server) as client:
        yield client


class Responses:
    """What a stream's callback was given, in order."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[Any, Any]] = queue.Queue()

    def __call__(self, result: Any, error: Any) -> None:
        self._queue.put((result, error))

    def next(self) -> tuple[Any, Any]:
        return self._queue.get(timeout=20)

    def texts(self) -> dict[str, list[str]]:
        """By request, the texts of the first choice until that request's last response."""
        result, error = self.next()
        assert error is None
        response = result.get_response()
        texts = {response.id: [result.as_numpy("text_output")[0].decode()]}
        if not response.parameters["triton_final_response"].bool_param:
            for request, more in self.texts().items():
                texts[request] = texts.get(request, []) + more
        return texts


def status_of(failed: pytest.ExceptionInfo[InferenceServerException]) -> str:
    return str(failed.value.status()).removeprefix("StatusCode.")


def test_given_a_server_when_asked_about_itself_and_its_model_then_it_tells(
    client: triton.InferenceServerClient,
) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready("other", "1")
    assert not client.is_model_ready(MODEL, "2")
    assert not client.is_model_ready("unknown")
    about = client.get_server_metadata()
    assert (about.name, about.version) == ("penstock", penstock.__version__)
    assert "statistics" in about.extensions
    metadata = client.get_model_metadata(MODEL)
    assert (metadata.name, list(metadata.versions)) == (MODEL, ["1"])
    shapes = {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs}
    assert shapes["text_input"] == ("BYTES", [1])
    assert shapes["stop_words"] == ("BYTES", [-1])
    assert shapes["max_tokens"] == ("INT32", [1])
    config = client.get_model_config(MODEL).config
    assert config.model_transaction_policy.decoupled
    assert config.max_batch_size == 0
    assert [tensor.name for tensor in config.input if not tensor.optional] == ["text_input"]
    assert {tensor.name for tensor in config.output} == {tensor.name for tensor in metadata.outputs}
    assert config.parameters["max_model_len"].string_value == "512"
    index = client.get_model_repository_index().models
    assert [(model.name, model.version, model.state) for model in index] == [(MODEL, "1", "READY")]


@pytest.mark.proves(
    infer="text_input exclude_input_in_output return_log_probs",
    inferred="text_output cum_log_probs output_log_probs",
)
def test_given_the_tensors_of_tensorrt_llm_when_inferred_then_the_text_comes_in_a_batch_of_one(
    client: triton.InferenceServerClient,
) -> None:
    inputs = of(
        triton,
        batch=True,
        text_input="hello world",
        max_tokens=30,
        stop_words=["wor", ""],
        bad_words=[""],
        temperature=0.0,
        top_k=1,
        top_p=0.5,
        random_seed=2**64 - 1,
        repetition_penalty=1.0,
        length_penalty=1.0,
        end_id=2,
        pad_id=2,
        beam_width=1,
        exclude_input_in_output=True,
        return_log_probs=True,
        return_context_logits=False,
    )
    result = client.infer(MODEL, inputs, request_id="r-1")
    assert result.as_numpy("text_output").tolist() == [[b"hello "]]
    scores = result.as_numpy("output_log_probs")
    assert scores.shape[:2] == (1, 1)
    assert result.as_numpy("cum_log_probs")[0][0] == pytest.approx(scores.sum(), rel=1e-5)
    response = result.get_response()
    assert (response.model_name, response.model_version, response.id) == (MODEL, "1", "r-1")
    assert {output.name for output in response.outputs} == {"text_output", "cum_log_probs", "output_log_probs"}


@pytest.mark.proves(
    infer="sampling_parameters return_finish_reason return_cumulative_logprob return_logprobs return_num_input_tokens "
    "return_num_output_tokens",
    inferred="finish_reason cumulative_logprob logprobs num_input_tokens num_output_tokens",
)
def test_given_the_tensors_of_vllm_when_inferred_then_the_outputs_switched_on_come(
    client: triton.InferenceServerClient,
) -> None:
    sampling = {"temperature": "0", "max_tokens": "5", "logprobs": 2, "n": 2, "stop": None}
    switches = ("finish_reason", "cumulative_logprob", "logprobs", "num_input_tokens", "num_output_tokens")
    inputs = of(
        triton,
        text_input="hello world",
        sampling_parameters=json.dumps(sampling),
        **{f"return_{name}": True for name in switches},
    )
    result = client.infer(MODEL, inputs)
    assert result.as_numpy("text_output").tolist() == [b"hello worldhello", b"hello worldhello"]
    assert result.as_numpy("finish_reason").tolist() == [b"length", b"length"]
    assert result.as_numpy("num_output_tokens").tolist() == [5, 5]
    assert result.as_numpy("num_input_tokens").tolist() == [11]
    positions = json.loads(result.as_numpy("logprobs")[0])
    assert len(positions) == 5
    assert set(next(iter(positions[0].values()))) == {"logprob", "rank", "decoded_token"}
    chosen = [next(iter(position.values()))["logprob"] for position in positions]
    assert result.as_numpy("cumulative_logprob")[0] == pytest.approx(sum(chosen), rel=1e-5)


def test_given_sampling_parameters_as_parameters_of_the_request_when_inferred_then_they_count(
    client: triton.InferenceServerClient,
) -> None:
    parameters = {"temperature": 0.0, "max_tokens": 3, "ignore_eos": True}
    result = client.infer(
        MODEL, of(triton, text_input="abc", exclude_input_in_output=True), parameters=parameters, priority=2
    )
    assert result.as_numpy("text_output").tolist() == [b"abc"]
    with pytest.raises(InferenceServerException, match="'priority' is not valid"):
        client.infer(MODEL, of(triton, text_input="abc"), priority=2**40)


def test_given_the_outputs_by_name_when_inferred_then_those_come_and_no_others(
    client: triton.InferenceServerClient,
) -> None:
    wanted = [triton.InferRequestedOutput("finish_reason"), triton.InferRequestedOutput("logprobs")]
    result = client.infer(MODEL, of(triton, text_input="abc", **GREEDY), outputs=wanted)
    assert result.as_numpy("text_output") is None
    assert result.as_numpy("finish_reason").tolist() == [b"stop"]
    assert result.as_numpy("logprobs").tolist() == [b"null"]


@pytest.mark.proves(infer="end_id")
def test_given_an_end_token_when_inferred_then_it_ends_the_answer_in_place_of_the_models_own(
    client: triton.InferenceServerClient,
) -> None:
    letter = client_token(client, "c")
    ended = client.infer(MODEL, of(triton, text_input="abcdef", **GREEDY, end_id=letter, return_finish_reason=True))
    assert ended.as_numpy("text_output").tolist() == [b"ab"]
    assert ended.as_numpy("finish_reason").tolist() == [b"stop"]
    endless = client.infer(MODEL, of(triton, text_input="ab", **{**GREEDY, "max_tokens": 7}, end_id=-1))
    assert endless.as_numpy("text_output").tolist() == [b"abababa"]


def client_token(client: triton.InferenceServerClient, text: str) -> int:
    """The id of a text's last token, as the answer's log probabilities name it."""
    wanted = [triton.InferRequestedOutput("logprobs")]
    inputs = of(triton, text_input=text, sampling_parameters='{"temperature": 0, "logprobs": 1, "max_tokens": 1}')
    return int(next(iter(json.loads(client.infer(MODEL, inputs, outputs=wanted).as_numpy("logprobs")[0])[0])))


@pytest.mark.proves(infer="bad_words")
def test_given_words_to_keep_out_or_to_favour_when_inferred_then_their_tokens_have_biases(echo_model: Path) -> None:
    engine = FakeEngine(echo_model)
    with kserve_server(engine) as server, client_of(server) as client:
        encode = engine.tokenizer.encode
        (bad,), (good,) = (encode(text, add_special_tokens=False) for text in "bg")
        words = {"bad_words": ["b", ""], "embedding_bias_words": ["g"], "embedding_bias_weights": [2.5]}
        client.infer(MODEL, of(triton, text_input="abc", **GREEDY, **words))
        assert engine.added[-1].params.logit_bias == {bad: -100.0, good: 2.5}
        with pytest.raises(InferenceServerException, match="'bad', which is 3 tokens") as failed:
            client.infer(MODEL, of(triton, text_input="abc", bad_words=["bad"]))
        assert status_of(failed) == "INVALID_ARGUMENT"


@pytest.mark.proves(infer="stream")
def test_given_a_stream_when_inferred_then_each_piece_comes_as_a_response_and_the_last_says_so(
    client: triton.InferenceServerClient,
) -> None:
    responses = Responses()
    client.start_stream(responses)
    client.async_stream_infer(MODEL, of(triton, text_input="hello world", stream=True, **GREEDY), request_id="s")
    texts = responses.texts()
    client.stop_stream()
    assert "".join(texts["s"]) == "hello world"
    assert len(texts["s"]) > 1


def test_given_several_requests_on_one_stream_when_inferred_then_each_response_bears_its_requests_id(
    echo_model: Path,
) -> None:
    engine = FakeEngine(echo_model, held=True)
    with kserve_server(engine) as server, client_of(server) as client:
        responses = Responses()
        client.start_stream(responses)
        for name, text in (("a", "one"), ("b", "two")):
            inputs = of(triton, text_input=text, stream=True, **GREEDY)
            client.async_stream_infer(MODEL, inputs, request_id=name, enable_empty_final_response=True)
        asyncio.run(eventually(lambda: engine.running == 2, "both run at once"))
        server.call(engine.release, 20)
        texts: dict[str, str] = {"a": "", "b": ""}
        last: set[str] = set()
        while len(last) < 2:
            result, error = responses.next()
            assert error is None
            response = result.get_response()
            texts[response.id] += result.as_numpy("text_output")[0].decode()
            if response.parameters["triton_final_response"].bool_param:
                last.add(response.id)
        client.stop_stream()
    assert texts == {"a": "one", "b": "two"}


def test_given_several_choices_when_streamed_then_each_response_has_a_place_for_all(
    client: triton.InferenceServerClient,
) -> None:
    responses = Responses()
    client.start_stream(responses)
    switches = {"return_finish_reason": True, "return_num_output_tokens": True, "return_cumulative_logprob": True}
    inputs = of(triton, text_input="abc", stream=True, **GREEDY, **switches, num_return_sequences=2)
    client.async_stream_infer(MODEL, inputs)
    texts, counts, reasons, final = ["", ""], [0, 0], ["None", "None"], False
    while not final:
        result, error = responses.next()
        assert error is None
        for at, (text, count, reason) in enumerate(
            zip(
                result.as_numpy("text_output"),
                result.as_numpy("num_output_tokens"),
                result.as_numpy("finish_reason"),
                strict=True,
            )
        ):
            texts[at] += text.decode()
            counts[at] += int(count)
            reasons[at] = reason.decode() if reason != b"None" else reasons[at]
        scores = result.as_numpy("cumulative_logprob").tolist()
        final = result.get_response().parameters["triton_final_response"].bool_param
    client.stop_stream()
    assert texts == ["abc", "abc"]
    assert counts == [4, 4]
    assert reasons == ["stop", "stop"]
    assert scores == pytest.approx([-2.8, -2.8], rel=1e-5)


def test_given_a_failing_request_on_a_stream_when_inferred_then_the_stream_goes_on(
    client: triton.InferenceServerClient,
) -> None:
    responses = Responses()
    client.start_stream(responses)
    client.async_stream_infer("unknown", of(triton, text_input="a"), request_id="bad")
    _, error = responses.next()
    assert "not served here" in str(error)
    client.async_stream_infer(MODEL, of(triton, text_input="abc", **GREEDY), request_id="good")
    assert responses.texts() == {"good": ["abc"]}
    client.stop_stream()


def test_given_a_client_that_wants_statuses_when_a_request_fails_on_a_stream_then_the_stream_ends_with_its_status(
    client: triton.InferenceServerClient,
) -> None:
    responses = Responses()
    client.start_stream(responses, headers={"triton_grpc_error": "true"})
    client.async_stream_infer("unknown", of(triton, text_input="a"))
    _, error = responses.next()
    client.stop_stream()
    assert error.status() == "StatusCode.NOT_FOUND"


def test_given_a_client_that_cancels_when_a_stream_runs_then_its_requests_are_aborted(echo_model: Path) -> None:
    engine = FakeEngine(echo_model, held=True)
    with kserve_server(engine) as server, client_of(server) as client:
        responses = Responses()
        client.start_stream(responses)
        client.async_stream_infer(MODEL, of(triton, text_input="abc", stream=True, **GREEDY))
        asyncio.run(eventually(lambda: engine.running == 1, "it runs"))
        client.stop_stream(cancel_requests=True)
        asyncio.run(eventually(lambda: engine.running == 0, "it is aborted"))
        assert len(engine.aborted) == 1
        failed = client.get_inference_statistics(MODEL).model_stats[0].inference_stats.fail
        assert failed.count == 1


def test_given_a_client_that_cancels_or_gives_up_when_a_request_runs_then_it_is_aborted(echo_model: Path) -> None:
    engine = FakeEngine(echo_model, held=True)

    async def cancel(address: str) -> None:
        async with triton_aio.InferenceServerClient(address) as client:
            running = asyncio.create_task(client.infer(MODEL, of(triton, text_input="abc", **GREEDY)))
            await eventually(lambda: engine.running == 1, "it runs")
            running.cancel()
            await eventually(lambda: engine.running == 0, "it is aborted")
            with pytest.raises(InferenceServerException, match="Deadline"):
                await client.infer(MODEL, of(triton, text_input="abc", **GREEDY), client_timeout=0.2)
            await eventually(lambda: len(engine.aborted) == 2, "the other is aborted too")

    with kserve_server(engine) as server:
        asyncio.run(cancel(server.grpc))


def test_given_the_asyncio_client_when_it_streams_then_it_gets_the_same(server: KServeServer) -> None:
    async def run() -> str:
        async def requests() -> Any:
            yield {"model_name": MODEL, "inputs": of(triton, text_input="hello", stream=True, **GREEDY)}

        async with triton_aio.InferenceServerClient(server.grpc) as client:
            assert await client.is_server_ready()
            text = ""
            async for result, error in client.stream_infer(requests()):
                assert error is None
                text += result.as_numpy("text_output")[0].decode()
            return text

    assert asyncio.run(run()) == "hello"


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_given_compressed_calls_when_inferred_then_they_are_read(
    client: triton.InferenceServerClient, algorithm: str
) -> None:
    result = client.infer(MODEL, of(triton, text_input="abc", **GREEDY), compression_algorithm=algorithm)
    assert result.as_numpy("text_output").tolist() == [b"abc"]


def test_given_requests_when_statistics_are_asked_for_then_they_are_counted(echo_model: Path) -> None:
    with kserve_server(FakeEngine(echo_model)) as server, client_of(server) as client:
        client.infer(MODEL, of(triton, text_input="abc", **GREEDY))
        with pytest.raises(InferenceServerException):
            client.infer(MODEL, of(triton, text_input=b"\xff"))
        (counted,) = client.get_inference_statistics().model_stats
        assert (counted.name, counted.inference_count, counted.execution_count) == (MODEL, 1, 1)
        assert counted.last_inference > 1_600_000_000_000
        times = counted.inference_stats
        assert times.success.count == times.queue.count == times.compute_infer.count == 1
        parts = times.queue.ns + times.compute_input.ns + times.compute_infer.ns
        assert 0 < parts <= times.success.ns
        assert times.fail.count == 0, "what never reached the model is no inference"


def test_given_a_stream_asked_for_in_a_unary_call_when_inferred_then_it_is_told_where_to_go(
    client: triton.InferenceServerClient,
) -> None:
    with pytest.raises(InferenceServerException, match="Use ModelStreamInfer") as failed:
        client.infer(MODEL, of(triton, text_input="abc", stream=True))
    assert status_of(failed) == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.load_model("any"),
        lambda client: client.unload_model(MODEL),
        lambda client: client.get_system_shared_memory_status(),
        lambda client: client.register_system_shared_memory("a", "/a", 16),
        lambda client: client.get_cuda_shared_memory_status(),
        lambda client: client.get_trace_settings(),
        lambda client: client.update_log_settings({"log_info": True}),
    ],
)
def test_given_what_is_not_there_when_asked_for_then_it_is_unimplemented_with_a_reason(
    client: triton.InferenceServerClient, call: Any
) -> None:
    with pytest.raises(InferenceServerException) as failed:
        call(client)
    assert status_of(failed) == "UNIMPLEMENTED"
    assert failed.value.message().endswith(".")


def test_given_a_method_nobody_knows_when_called_then_it_is_unimplemented(server: KServeServer) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        for method in ("/inference.GRPCInferenceService/Nothing", "/other.Service/ServerLive"):
            with pytest.raises(grpc.RpcError) as failed:
                channel.unary_unary(method)(b"", timeout=10)
            assert failed.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(("service", "state", "status"), [
    ("", "ready", "SERVING"),
    ("inference.GRPCInferenceService", "ready", "SERVING"),
    ("", "restarting", "NOT_SERVING"),
])  # fmt: skip
def test_given_a_health_check_when_called_without_a_key_then_it_says_whether_a_request_would_be_taken(
    echo_model: Path, service: str, state: Any, status: str
) -> None:
    engine = FakeEngine(echo_model)
    engine.state = state
    with kserve_server(engine, api_keys=["k"]) as server, grpc.insecure_channel(server.grpc) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        answer = HealthCheckResponse.FromString(
            check(HealthCheckRequest(service=service).SerializeToString(), timeout=20)
        )
        assert answer.status == HealthCheckResponse.ServingStatus.Value(status)
        with pytest.raises(grpc.RpcError) as failed:
            check(HealthCheckRequest(service="other").SerializeToString(), timeout=20)
        assert failed.value.code() == grpc.StatusCode.NOT_FOUND


def test_given_keys_when_called_without_one_then_only_probes_answer(echo_model: Path) -> None:
    with kserve_server(FakeEngine(echo_model), api_keys=["sk-one"]) as server, client_of(server) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        for headers in (None, {"authorization": "Bearer sk-two"}, {"authorization": "sk-one"}):
            with pytest.raises(InferenceServerException, match="API key") as failed:
                client.infer(MODEL, of(triton, text_input="abc"), headers=headers)
            assert status_of(failed) == "UNAUTHENTICATED"
            with pytest.raises(InferenceServerException):
                client.get_model_repository_index(headers=headers)
        key = {"authorization": "Bearer sk-one"}
        assert (
            client.infer(MODEL, of(triton, text_input="abc", **GREEDY), headers=key).as_numpy("text_output") == b"abc"
        )
        refused = Responses()
        client.start_stream(refused)
        with suppress(InferenceServerException):  # the refusal may be there before the request
            client.async_stream_infer(MODEL, of(triton, text_input="abc"))
        _, error = refused.next()
        client.stop_stream()
        assert error.status() == "StatusCode.UNAUTHENTICATED"


def test_given_probes_that_are_closed_when_called_without_a_key_then_they_are_refused(echo_model: Path) -> None:
    with (
        kserve_server(FakeEngine(echo_model), api_keys=["k"], public_probes=False) as server,
        client_of(server) as client,
        pytest.raises(InferenceServerException, match="API key"),
    ):
        client.is_server_live()


def test_given_a_full_queue_when_inferred_then_it_is_resource_exhausted(echo_model: Path) -> None:
    engine = FakeEngine(echo_model, held=True, max_num_seqs=1, max_waiting=0)
    with kserve_server(engine) as server, client_of(server) as client:
        first = threading.Thread(target=client.infer, args=(MODEL, of(triton, text_input="abc", **GREEDY)))
        first.start()
        asyncio.run(eventually(lambda: engine.running == 1, "the first runs"))
        with pytest.raises(InferenceServerException, match="queue is full") as failed:
            client.infer(MODEL, of(triton, text_input="abc", **GREEDY))
        assert status_of(failed) == "RESOURCE_EXHAUSTED"
        server.call(engine.release, 20)
        first.join(20)


def test_given_a_core_that_dies_when_a_request_runs_then_it_is_unavailable_and_readiness_says_so(
    echo_model: Path,
) -> None:
    engine = FakeEngine(echo_model, held=True)
    with kserve_server(engine) as server, client_of(server) as client:
        responses = Responses()
        client.start_stream(responses)
        client.async_stream_infer(MODEL, of(triton, text_input="abc", stream=True, **GREEDY), request_id="x")
        asyncio.run(eventually(lambda: engine.running == 1, "it runs"))
        server.call(engine.die)
        _, error = responses.next()
        assert "core died" in str(error)
        client.stop_stream()
        with pytest.raises(InferenceServerException, match="try again") as failed:
            client.infer(MODEL, of(triton, text_input="abc"))
        assert status_of(failed) == "UNAVAILABLE"
        assert client.is_server_live()
        assert not client.is_server_ready()
        assert not client.is_model_ready(MODEL)
        (model,) = client.get_model_repository_index().models
        assert model.state == "UNAVAILABLE"
        assert "core died" in model.reason


def test_given_calls_when_metrics_are_scraped_then_they_are_counted_by_status(echo_model: Path) -> None:
    import httpx

    with kserve_server(FakeEngine(echo_model)) as server, client_of(server) as client:
        client.infer(MODEL, of(triton, text_input="abc", **GREEDY))
        with pytest.raises(InferenceServerException):
            client.get_model_metadata("unknown")
        said = httpx.get(f"http://{server.http}/metrics").text
    assert 'penstock_grpc_requests_total{method="ModelInfer",status="OK"} 1.0' in said
    assert 'penstock_grpc_requests_total{method="ModelMetadata",status="NOT_FOUND"} 1.0' in said
    assert f'penstock_sequences_finished_total{{model="{MODEL}",reason="stop"}} 1.0' in said


def test_given_a_failure_inside_when_called_then_the_client_learns_an_incident_and_nothing_else(
    echo_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = FakeEngine(echo_model)
    with kserve_server(engine) as server, client_of(server) as client:
        monkeypatch.setattr(engine, "generate", lambda *_, **__: 1 / 0)
        with pytest.raises(InferenceServerException, match="Something went wrong inside") as failed:
            client.infer(MODEL, of(triton, text_input="abc", **GREEDY))
        assert status_of(failed) == "INTERNAL"
        assert "division" not in str(failed.value)
        responses = Responses()
        client.start_stream(responses)
        client.async_stream_infer(MODEL, of(triton, text_input="abc"))
        _, error = responses.next()
        client.stop_stream()
        assert "Something went wrong inside" in str(error)
        client.start_stream(responses, headers={"triton_grpc_error": "true"})
        client.async_stream_infer(MODEL, of(triton, text_input="abc"))
        _, error = responses.next()
        client.stop_stream()
        assert error.status() == "StatusCode.INTERNAL"
    assert "ZeroDivisionError" in caplog.text


def test_given_a_port_in_use_when_listened_on_then_it_is_said_so() -> None:
    async def run() -> None:
        first = GrpcListener(ServerSettings(grpc_port=0))
        try:
            with pytest.raises(ConfigError, match=f"Port {first.port} of 127.0.0.1 can't be listened on for gRPC"):
                GrpcListener(ServerSettings(grpc_port=first.port))
        finally:
            await first.stop(0)

    asyncio.run(run())


def test_given_a_unix_socket_for_http_when_grpc_faces_other_machines_then_a_key_is_needed() -> None:
    with pytest.raises(ConfigError, match="API key is needed"):
        ServerSettings(host="0.0.0.0", uds="s", grpc_port=8001).check_exposure()
    ServerSettings(host="0.0.0.0", uds="s").check_exposure()
    ServerSettings(uds="s", grpc_port=8001).check_exposure()


def test_given_a_client_that_reads_nothing_when_it_goes_on_asking_then_it_has_to_wait(echo_model: Path) -> None:
    read = 0

    async def endless() -> AsyncIterator[pb.ModelInferRequest]:
        nonlocal read
        while True:
            read += 1
            yield pb.ModelInferRequest(model_name="nobody", id=str(read))
            await asyncio.sleep(0)

    async def never(_message: object) -> None:
        await asyncio.Event().wait()

    async def run() -> None:
        calls = Calls(app_over(FakeEngine(echo_model), ServerSettings()).state.kserve.kserve)
        asking = asyncio.create_task(calls.stream_infer(endless(), never, strict=False))
        await eventually(lambda: read > MAX_ON_A_STREAM, "it has asked as often as it may")
        for _ in range(100):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert read == MAX_ON_A_STREAM + 1

    asyncio.run(run())
