"""The manifest of the protocol's JSON objects against their types, and against NVIDIA's own messages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from penstock.server.kserve.generate_types import GenerateAnswer, GenerateBody
from penstock.server.kserve.routes import ENDPOINTS
from penstock.server.manifest.kserve_objects import KSERVE_PARTS
from support.asking import ask
from support.fake_engine import FakeEngine
from support.structs import fields_of, structs_in

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.server.manifest.api import Part

MODEL = "/v2/models/Echo-1B"
PARTS = {part.name: part for part in KSERVE_PARTS}
THEIRS: dict[str, Any] = {
    "ServerMetadata": service_pb2.ServerMetadataResponse,
    "ModelMetadata": service_pb2.ModelMetadataResponse,
    "TensorMetadata": service_pb2.ModelMetadataResponse.TensorMetadata,
    "InferBody": service_pb2.ModelInferRequest,
    "InputBody": service_pb2.ModelInferRequest.InferInputTensor,
    "OutputBody": service_pb2.ModelInferRequest.InferRequestedOutputTensor,
    "InferAnswer": service_pb2.ModelInferResponse,
    "OutputTensor": service_pb2.ModelInferResponse.InferOutputTensor,
    "ModelConfig": model_config_pb2.ModelConfig,
    "ConfigInput": model_config_pb2.ModelInput,
    "ConfigOutput": model_config_pb2.ModelOutput,
    "TransactionPolicy": model_config_pb2.ModelTransactionPolicy,
    "ConfigParameter": model_config_pb2.ModelParameter,
    "Statistics": service_pb2.ModelStatisticsResponse,
    "ModelStatistics": service_pb2.ModelStatistics,
    "InferStatistics": service_pb2.InferStatistics,
    "Duration": service_pb2.StatisticDuration,
    "ModelIndex": service_pb2.RepositoryIndexResponse.ModelIndex,
    "IndexBody": service_pb2.RepositoryIndexRequest,
    "ControlBody": service_pb2.RepositoryModelLoadRequest,
}
# Of gRPC alone: over HTTP the path names the model, and elements stand elsewhere.
OF_GRPC = {"repository_name", "raw_input_contents", "raw_output_contents", "contents"}
IN_THE_PATH = {"InferBody": {"model_name", "model_version"}, "ControlBody": {"model_name"}}
OF_HTTP = {"InputBody": {"data"}, "OutputTensor": {"data"}}


def test_given_the_endpoints_then_each_of_their_objects_has_a_manifest() -> None:
    kinds = [kind for each in ENDPOINTS for kind in (each.takes, each.gives, each.chunk, each.error_body)]
    used = {kind for kind in structs_in(*kinds) if kind.__module__.startswith("penstock.server.kserve")}
    assert used - {GenerateBody, GenerateAnswer} == {part.kind for part in KSERVE_PARTS}, "those are the signature's"


@pytest.mark.parametrize("part", KSERVE_PARTS, ids=lambda part: part.name)
def test_given_an_object_then_its_manifest_has_exactly_its_fields(part: Part) -> None:
    assert {name for name, field in part.fields.items() if field.support == "supported"} == fields_of(part.kind)


@pytest.mark.parametrize("name", THEIRS)
def test_given_nvidias_message_then_the_manifest_has_its_fields_and_no_others(name: str) -> None:
    theirs = {field.name for field in THEIRS[name].DESCRIPTOR.fields}
    ours = {field for field, entry in PARTS[name].fields.items() if not entry.origin}
    assert theirs - OF_GRPC - IN_THE_PATH.get(name, set()) == ours - OF_HTTP.get(name, set())


def test_given_the_objects_then_all_but_the_error_are_held_against_nvidias() -> None:
    assert set(PARTS) - set(THEIRS) == {"InferError"}


@pytest.mark.proves(
    ServerMetadata="name version extensions",
    ModelMetadata="name versions platform inputs outputs",
    TensorMetadata="name datatype shape",
    ModelConfig="name platform backend max_batch_size input output model_transaction_policy parameters",
    ConfigInput="name data_type dims optional",
    ConfigOutput="name data_type dims",
    TransactionPolicy="decoupled",
    ConfigParameter="string_value",
    ModelIndex="name version state reason",
    IndexBody="ready",
)
def test_given_a_server_when_asked_about_itself_then_each_object_has_its_fields(echo_model: Path) -> None:
    engine = FakeEngine(echo_model)
    about = ask(engine, "GET", "/v2").json()
    assert (about["name"], set(about)) == ("penstock", {"name", "version", "extensions"})
    assert re.match(r"\d+\.\d+", about["version"])
    assert "binary_tensor_data" in about["extensions"]
    model = ask(engine, "GET", MODEL).json()
    assert (model.pop("name"), model.pop("platform"), model.pop("versions")) == ("Echo-1B", "penstock", ["1"])
    assert {"name": "text_input", "datatype": "BYTES", "shape": [1]} in model.pop("inputs")
    assert {"name": "text_output", "datatype": "BYTES", "shape": [-1]} in model.pop("outputs")
    assert model == {}
    config = ask(engine, "GET", f"{MODEL}/config").json()
    assert {"name": "max_tokens", "data_type": "TYPE_INT32", "dims": [1], "optional": True} in config.pop("input")
    assert {"name": "text_output", "data_type": "TYPE_STRING", "dims": [-1]} in config.pop("output")
    assert config.pop("parameters")["max_model_len"] == {"string_value": str(engine.spec.context_length)}
    assert config == {
        "name": "Echo-1B",
        "platform": "penstock",
        "backend": "penstock",
        "max_batch_size": 0,
        "model_transaction_policy": {"decoupled": True},
    }
    row = {"name": "Echo-1B", "version": "1", "state": "READY", "reason": ""}
    assert ask(engine, "POST", "/v2/repository/index", {"ready": True}).json() == [row]


@pytest.mark.proves(
    InferBody="id parameters inputs outputs",
    InputBody="name datatype shape parameters data",
    OutputBody="name parameters",
    InferAnswer="model_name model_version id outputs",
    OutputTensor="name datatype shape parameters data",
)
def test_given_outputs_in_binary_and_not_when_inferred_then_the_answer_has_both(echo_model: Path) -> None:
    text = b"\x03\x00\x00\x00abc"
    head = msgspec.json.encode(
        {
            "id": "7",
            "parameters": {"temperature": 0, "n": 2},
            "inputs": [
                {"name": "text_input", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 7}},
                {"name": "max_tokens", "datatype": "INT32", "shape": [1], "data": [2]},
                {"name": "exclude_input_in_output", "datatype": "BOOL", "shape": [1], "data": [True]},
                {"name": "return_finish_reason", "datatype": "BOOL", "shape": [1], "data": [True]},
            ],
            "outputs": [{"name": "text_output", "parameters": {"binary_data": True}}, {"name": "finish_reason"}],
        }
    )
    headers = {"inference-header-content-length": str(len(head))}
    response = ask(FakeEngine(echo_model), "POST", f"{MODEL}/infer", head + text, headers=headers)
    end = int(response.headers["inference-header-content-length"])
    assert msgspec.json.decode(response.content[:end]) == {
        "model_name": "Echo-1B",
        "model_version": "1",
        "id": "7",
        "outputs": [
            {"name": "text_output", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 12}},
            {"name": "finish_reason", "datatype": "BYTES", "shape": [2], "data": ["length", "length"]},
        ],
    }
    assert response.content[end:] == b"\x02\x00\x00\x00ab" * 2


@pytest.mark.proves(
    Statistics="model_stats",
    ModelStatistics="name version last_inference inference_count execution_count inference_stats batch_stats",
    InferStatistics="success fail queue compute_input compute_infer compute_output cache_hit cache_miss",
    Duration="count ns",
)
def test_given_a_server_that_nothing_was_asked_of_when_asked_for_statistics_then_all_is_zero(echo_model: Path) -> None:
    nothing = {"count": 0, "ns": 0}
    (counted,) = ask(FakeEngine(echo_model), "GET", "/v2/models/stats").json()["model_stats"]
    assert set(counted["inference_stats"]) == {
        *("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
    }
    assert all(duration == nothing for duration in counted.pop("inference_stats").values())
    assert counted == {
        "name": "Echo-1B",
        "version": "1",
        "last_inference": 0,
        "inference_count": 0,
        "execution_count": 0,
        "batch_stats": [],
    }


@pytest.mark.proves(ControlBody="parameters", InferError="error param code")
def test_given_parameters_of_a_model_to_load_when_asked_for_then_they_are_refused_by_name(echo_model: Path) -> None:
    body = {"parameters": {"config": "{}"}}
    path = "/v2/repository/models/Echo-1B/load"
    response = ask(FakeEngine(echo_model), "POST", path, body, model_control=True)
    error = response.json()
    assert (response.status_code, set(error)) == (400, {"error", "param", "code"})
    assert (error["param"], "config" in error["error"]) == ("config", True)
