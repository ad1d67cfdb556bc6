"""Messages and tensors against NVIDIA's own client: what one writes the other reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor, triton_to_np_dtype

from penstock.server.kserve import inference_pb2, refused
from penstock.server.kserve.signature import INPUTS, OUTPUTS
from penstock.server.kserve.tensors import Tensor, from_binary, to_binary

pytestmark = pytest.mark.oracle

THEIRS = {**service_pb2.DESCRIPTOR.message_types_by_name, **model_config_pb2.DESCRIPTOR.message_types_by_name}
# Fields that nothing here fills or reads: of configurations alone, of memory and of responses' statistics.
LEFT_OUT = {"ModelConfig", "ModelInput", "ModelOutput", "ModelStatistics"}


def flattened(messages: Any, prefix: str = "") -> dict[str, Any]:
    """Messages and those inside them, by their whole names."""
    found = {}
    for message in messages:
        found[prefix + message.name] = message
        found.update(flattened(message.nested_types, f"{prefix}{message.name}."))
    return found


def described(field: Any) -> tuple[Any, ...]:
    """What decides how a field is written."""
    inside = field.message_type or field.enum_type
    oneof = field.containing_oneof and field.containing_oneof.name
    return field.name, field.number, field.type, field.is_repeated, inside and inside.full_name, oneof


OURS = flattened(inference_pb2.DESCRIPTOR.message_types_by_name.values())
TRITONS = flattened(THEIRS.values())


@pytest.mark.parametrize("name", sorted(OURS))
def test_given_a_message_when_compared_with_tritons_then_every_field_is_written_the_same_way(name: str) -> None:
    ours = {described(field) for field in OURS[name].fields}
    theirs = {described(field) for field in TRITONS[name].fields}
    assert ours <= theirs
    if name not in LEFT_OUT:
        assert ours == theirs


def test_given_the_datatypes_when_compared_with_tritons_then_they_have_the_same_numbers() -> None:
    ours = inference_pb2.DESCRIPTOR.enum_types_by_name["DataType"]
    theirs = model_config_pb2.DESCRIPTOR.enum_types_by_name["DataType"]
    assert [(value.name, value.number) for value in ours.values] == [
        (value.name, value.number) for value in theirs.values
    ]


def test_given_the_service_when_compared_with_tritons_then_each_method_is_served_or_refused_with_a_reason() -> None:
    ours = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    served = {
        (method.name, method.input_type.full_name, method.output_type.full_name, method.client_streaming)
        for method in ours.methods
    }
    known = {
        (method.name, method.input_type.full_name, method.output_type.full_name, method.client_streaming)
        for method in theirs.methods
    }
    assert ours.full_name == theirs.full_name
    assert served <= known
    assert {name for name, *_ in known - served} == set(refused.METHODS)
    assert all(refused.METHODS.values())


@given(st.lists(st.binary(max_size=12), max_size=5))
def test_given_strings_when_either_writes_them_then_the_other_reads_them(values: list[bytes]) -> None:
    array = np.empty(len(values), dtype=np.object_)
    array[:] = values
    theirs = serialize_byte_tensor(array).item() if values else b""
    ours = to_binary(Tensor("t", "BYTES", (len(values),), list(values)))
    assert ours == theirs
    assert from_binary("t", "BYTES", [len(values)], theirs).values == values
    assert list(deserialize_bytes_tensor(ours)) == values


@pytest.mark.parametrize("datatype", ["BOOL", "INT32", "INT64", "UINT32", "UINT64", "FP32", "FP64"])
def test_given_numbers_when_either_writes_them_then_the_other_reads_them(datatype: str) -> None:
    array = np.array([[0, 1, 2], [3, 5, 250]]).astype(triton_to_np_dtype(datatype))
    tensor = from_binary("t", datatype, array.shape, array.tobytes())
    assert tensor.values == array.flatten().tolist()
    assert to_binary(tensor) == array.tobytes()


def test_given_the_signature_when_read_then_its_datatypes_are_ones_that_clients_have() -> None:
    for known in (*INPUTS.values(), *OUTPUTS.values()):
        assert triton_to_np_dtype(known.datatype) is not None
