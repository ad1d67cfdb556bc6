"""Between the protocol's gRPC messages and what the server works with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from google.protobuf.json_format import ParseDict

from penstock.core.errors import InvalidRequestError
from penstock.server.kserve import inference_pb2 as pb
from penstock.server.kserve.signature import TEXT, no_tensor_parameter
from penstock.server.kserve.tensors import from_binary, from_values, invalid, to_binary
from penstock.server.kserve.text_request import InferRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.server.kserve.answer import InferResponse
    from penstock.server.kserve.signature import Signature
    from penstock.server.kserve.tensors import Tensor, Value

M = TypeVar("M")

# The field of a tensor's typed contents, by its datatype.
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_EMPTY_FINAL = "triton_enable_empty_final_response"
_FINAL = "triton_final_response"


def read_request(message: pb.ModelInferRequest, *, arrived: float, signature: Signature = TEXT) -> InferRequest:
    """An inference request. Raises InvalidRequestError for tensors that can't be."""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidRequestError(
            f"There are {len(message.inputs)} inputs, and 'raw_input_contents' has the data of {len(raw)}.",
            param="raw_input_contents",
            code="invalid_tensor",
        )
    inputs: dict[str, list[Value]] = {}
    batched = False
    for at, item in enumerate(message.inputs):
        tensor = _tensor(item, raw[at] if raw else None, signature)
        if item.name in inputs:
            raise invalid(item.name, "is there twice.")
        inputs[item.name] = tensor.values
        batched |= item.name == "text_input" and len(tensor.shape) == 2
    for output in message.outputs:
        signature.check_output(output.name)
        for name in output.parameters:
            raise no_tensor_parameter(output.name, name)
    parameters = _parameters(message.parameters)
    parameters.pop(_EMPTY_FINAL, None)  # the last response has data and is marked, so none comes after it
    return InferRequest(
        model=message.model_name,
        version=message.model_version,
        id=message.id,
        parameters=parameters,
        inputs=inputs,
        outputs=tuple(dict.fromkeys(output.name for output in message.outputs)),
        batched=batched,
        arrived=arrived,
    )


def write_response(response: InferResponse) -> pb.ModelInferResponse:
    """One response, its tensors in binary, as Triton's are."""
    message = pb.ModelInferResponse(model_name=response.model, model_version=response.version, id=response.id)
    for tensor in response.outputs:
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_output_contents.append(to_binary(tensor))
    return message


def write_stream_response(response: InferResponse) -> pb.ModelStreamInferResponse:
    """One response of several, which says whether it is the last."""
    message = pb.ModelStreamInferResponse(infer_response=write_response(response))
    message.infer_response.parameters[_FINAL].bool_param = response.final
    return message


def write_stream_error(request_id: str, problem: str) -> pb.ModelStreamInferResponse:
    """A request that failed, on a stream that goes on."""
    return pb.ModelStreamInferResponse(error_message=problem, infer_response=pb.ModelInferResponse(id=request_id))


def as_message(body: msgspec.Struct | dict[str, Any], kind: type[M]) -> M:
    """What the protocol answers beside inference, whose names are the message's."""
    message: M = ParseDict(msgspec.to_builtins(body), kind())
    return message


def _tensor(item: pb.ModelInferRequest.InferInputTensor, raw: bytes | None, signature: Signature) -> Tensor:
    shape = list(item.shape)
    signature.check_input(item.name, item.datatype, shape)
    for name in item.parameters:
        raise no_tensor_parameter(item.name, name)
    filled = [field.name for field, _ in item.contents.ListFields()]
    if raw is not None:
        if filled:
            raise invalid(item.name, "has its data twice, in 'contents' and in 'raw_input_contents'.")
        return from_binary(item.name, item.datatype, shape, raw)
    expected = _CONTENTS[item.datatype]
    if any(name != expected for name in filled):
        raise invalid(item.name, f"is {item.datatype}, so its data belongs in '{expected}', not in '{filled[0]}'.")
    return from_values(item.name, item.datatype, shape, getattr(item.contents, expected))


def _parameters(given: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    parameters = {}
    for name, parameter in given.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidRequestError(
                f"The parameter {name[:256]!r} has no value.", param=name[:256], code="invalid_value"
            )
        parameters[name] = getattr(parameter, kind)
    return parameters
