"""A whole server with a real engine behind it, asked over gRPC and HTTP by NVIDIA's clients."""

from __future__ import annotations

import queue
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from support.tiny_chat import write_tiny_chat
from support.triton_clients import of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("tiny"), max_position_embeddings=4096)


@contextmanager
def penstock_serve(model: Path | None, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """The process, and its addresses for HTTP and gRPC without their schemes; None serves what is configured."""
    options = ["--port", "0", "--grpc-port", "0"]
    if model is not None:
        options += [str(model), "--served-model-name", "tiny", "--kv-memory", "16MiB", "--threads", "1"]
    command = [sys.executable, "-m", "penstock.cli", "serve", *options, *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if line.strip().startswith("ready"):
                break
        found = re.findall(r"(?:http|grpc)://(\S+)", said)
        try:
            assert len(found) == 2, said
            yield process, found[0], found[1]
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                _, rest = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
    assert process.returncode == 0
    assert "Traceback" not in rest


@pytest.mark.parametrize("runner", ["native", "torch"])
def test_given_a_runner_when_asked_by_any_protocol_then_the_text_is_the_same(model: Path, runner: str) -> None:
    wanted = {"max_tokens": 12, "temperature": 0.0, "exclude_input_in_output": True, "end_id": -1}
    with penstock_serve(model, "--runner", runner, "--dtype", "float32") as (_, http, grpc):
        body = {"prompt": "hello", "max_tokens": 12, "temperature": 0, "ignore_eos": True}
        text = httpx.post(f"http://{http}/v1/completions", json=body, timeout=PATIENCE).json()["choices"][0]["text"]
        with triton.InferenceServerClient(grpc) as client:
            result = client.infer("tiny", of(triton, text_input="hello", **wanted))
            assert result.as_numpy("text_output")[0].decode() == text
            pieces: queue.Queue[Any] = queue.Queue()
            client.start_stream(lambda result, error: pieces.put((result, error)))
            client.async_stream_infer("tiny", of(triton, text_input="hello", stream=True, **wanted))
            streamed, final = "", False
            while not final:
                result, error = pieces.get(timeout=PATIENCE)
                assert error is None
                streamed += result.as_numpy("text_output")[0].decode()
                final = result.get_response().parameters["triton_final_response"].bool_param
            client.stop_stream()
            assert streamed == text
        client = triton_http.InferenceServerClient(http)
        result = client.infer("tiny", of(triton_http, text_input="hello", **wanted))
        client.close()
        assert result.as_numpy("text_output")[0].decode() == text


def test_given_a_running_stream_when_the_server_is_told_to_stop_then_it_ends_and_new_requests_are_refused(
    model: Path,
) -> None:
    wanted = {"max_tokens": 3000, "temperature": 0.0, "end_id": -1, "stream": True, "return_finish_reason": True}
    with penstock_serve(model) as (process, _, grpc), triton.InferenceServerClient(grpc) as client:
        pieces: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: pieces.put((result, error)))
        client.async_stream_infer("tiny", of(triton, text_input="hello", **wanted))
        pieces.get(timeout=PATIENCE)
        process.send_signal(signal.SIGTERM)
        while client.is_server_ready():
            pass
        with pytest.raises(InferenceServerException, match="shutting down") as failed:
            client.infer("tiny", of(triton, text_input="hello"))
        assert failed.value.status() == "StatusCode.UNAVAILABLE"
        reason = b"None"
        while reason == b"None":
            result, error = pieces.get(timeout=PATIENCE)
            assert error is None
            reason = result.as_numpy("finish_reason")[0]
        assert reason == b"length"
        client.stop_stream()


def test_given_a_stream_that_is_left_open_when_the_server_is_told_to_stop_then_it_ends_without_an_error(
    model: Path,
) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    with penstock_serve(model) as (process, _, grpc), triton.InferenceServerClient(grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("tiny", of(triton, text_input="hello", max_tokens=2))
        result, error = answers.get(timeout=PATIENCE)
        assert error is None
        assert result.as_numpy("text_output").size == 1
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        said = process.stderr.read()
        assert "Stopped." in said
        assert "Traceback" not in said
        client.stop_stream()
    assert answers.empty()  # a stream that is cut off is an error


def test_given_leave_to_when_a_client_unloads_and_loads_the_model_then_it_goes_and_comes_back(model: Path) -> None:
    with penstock_serve(model, "--model-control", "--alias", "other") as (_, http, grpc):
        over_http = triton_http.InferenceServerClient(http)
        with triton.InferenceServerClient(grpc) as client:
            with pytest.raises(InferenceServerException, match="as it is declared") as failed:
                client.load_model("tiny", config="{}")
            assert failed.value.status() == "StatusCode.INVALID_ARGUMENT"
            with pytest.raises(InferenceServerException) as failed:
                client.load_model("unknown")
            assert failed.value.status() == "StatusCode.NOT_FOUND"
            with pytest.raises(InferenceServerException, match="not all of a model"):
                client.unload_model("tiny@1")
            client.unload_model("other", unload_dependents=True)
            assert not client.is_model_ready("tiny")
            assert client.is_server_ready(), "what was unloaded on purpose is not missed"
            with pytest.raises(InferenceServerException, match="is not loaded") as failed:
                client.infer("tiny", of(triton, text_input="hello"))
            assert failed.value.status() == "StatusCode.NOT_FOUND"
            (row,) = over_http.get_model_repository_index()
            assert (row["state"], row["reason"] != "") == ("UNAVAILABLE", True)
            over_http.load_model("tiny")
            assert client.is_model_ready("tiny")
            assert client.infer("tiny", of(triton, text_input="hello")).as_numpy("text_output") is not None
            over_http.unload_model("tiny")
            assert not over_http.is_model_ready("tiny")
            assert over_http.get_model_repository_index() == [row]
            client.load_model("tiny")
            assert over_http.is_model_ready("tiny")
        over_http.close()


def test_given_a_declaration_that_cannot_be_when_a_client_loads_the_model_then_it_is_told_so_and_served_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "penstock.toml"
    table = f'[[models]]\nname = "tiny"\nmodel = "{model}"\nthreads = 1\nkv_memory = "16MiB"\n'
    settings.write_text(table)
    monkeypatch.setenv("PENSTOCK_CONFIG", str(settings))
    wrong = ("[[models", table + "max_model_len = 99999\n", table.replace(str(model), str(tmp_path / "nowhere")))
    with penstock_serve(None, "--model-control") as (_, http, grpc):
        over_http = triton_http.InferenceServerClient(http)
        with triton.InferenceServerClient(grpc) as client:
            for text in wrong:
                settings.write_text(text)
                answer = httpx.post(f"http://{http}/v2/repository/models/tiny/load", timeout=PATIENCE)
                assert answer.status_code == 400, text
                assert str(tmp_path) not in answer.text
                with pytest.raises(InferenceServerException, match="the server's log says why") as failed:
                    client.load_model("tiny")
                assert failed.value.status() == "StatusCode.INVALID_ARGUMENT"
                assert client.infer("tiny", of(triton, text_input="hello")).as_numpy("text_output") is not None
            settings.write_text(table)
            over_http.load_model("tiny")
        over_http.close()


def test_given_a_port_in_use_when_served_then_it_ends_before_the_model_is_loaded(model: Path) -> None:
    with penstock_serve(model) as (_, _, grpc):
        port = grpc.rpartition(":")[2]
        command = [sys.executable, "-m", "penstock.cli", "serve", str(model), "--port", "0", "--grpc-port", port]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ran.returncode == 9
    assert f"Port {port} of 127.0.0.1 can't be listened on for gRPC" in ran.stderr
