"""Bodies of the protocol over HTTP: JSON, with tensors in it or in binary after it, compressed or not.

The binary form: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md.
"""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct

from penstock.core.errors import InvalidRequestError, PayloadTooLargeError
from penstock.server.body import explain
from penstock.server.kserve.signature import TEXT, Signature, no_tensor_parameter
from penstock.server.kserve.tensors import from_binary, from_json, invalid, to_binary, to_json
from penstock.server.kserve.text_request import InferRequest
from penstock.server.kserve.types import InferAnswer, OutputTensor

if TYPE_CHECKING:
    from penstock.server.kserve.answer import InferResponse
    from penstock.server.kserve.tensors import Tensor, Value

T = TypeVar("T")

HEADER_LENGTH = "inference-header-content-length"
_UNZIP = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}  # "deflate" is zlib's format, says RFC 9110
_encode = msgspec.json.Encoder().encode


class InputBody(Struct, forbid_unknown_fields=True):
    """One input; its elements are in `data`, or in binary after the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class OutputBody(Struct, forbid_unknown_fields=True):
    """One output that is asked for."""

    name: str
    parameters: dict[str, Any] | None = None


class InferBody(Struct, forbid_unknown_fields=True):
    """Body of an inference request."""

    inputs: list[InputBody]
    id: str = ""
    parameters: dict[str, Any] | None = None
    outputs: list[OutputBody] | None = None


class Wanted(Struct):
    """How the answer's tensors are to be written: in binary, save these, or only these."""

    binary: bool
    others: set[str]

    def in_binary(self, name: str) -> bool:
        """Whether this output is."""
        return self.binary != (name in self.others)


def uncompressed(raw: bytes, encoding: str, max_bytes: int) -> bytes:
    """A body without its compression. Raises InvalidRequestError, or PayloadTooLargeError over `max_bytes`."""
    encoding = encoding.strip().lower()
    if encoding in {"", "identity"}:
        return raw
    if encoding not in _UNZIP:
        raise InvalidRequestError(
            f"The body's encoding {encoding[:64]!r} is not known; send gzip, deflate or none.",
            param="content-encoding",
            code="unsupported_encoding",
        )
    unzip = zlib.decompressobj(_UNZIP[encoding])
    try:
        plain = unzip.decompress(raw, max_bytes + 1)
    except zlib.error as error:
        raise _damaged(encoding) from error
    if len(plain) > max_bytes:
        raise PayloadTooLargeError(
            f"The body is larger than this server takes ({max_bytes} bytes) once it is decompressed.",
            code="body_too_large",
        )
    if not unzip.eof or unzip.unused_data:
        raise _damaged(encoding)
    return plain


def compressed(body: bytes, accepted: str) -> tuple[bytes, str]:
    """A body in an encoding that the client takes, and that encoding; "" is none."""
    offers = [offer.strip().lower().replace(" ", "") for offer in accepted.split(",")]
    takes = {name for name, _, quality in (offer.partition(";") for offer in offers) if quality not in {"q=0", "q=0.0"}}
    if "gzip" in takes:
        return gzip.compress(body, 1, mtime=0), "gzip"
    if "deflate" in takes:
        return zlib.compress(body, 1), "deflate"
    return body, ""


def decode(raw: bytes, kind: type[T]) -> T:
    """JSON as `kind`. Raises InvalidRequestError."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise explain(str(error)) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"The body is not valid JSON: {error}.", code="invalid_json") from error


def read_infer(
    raw: bytes,
    header_length: str | None,
    *,
    model: str,
    version: str,
    arrived: float,
    signature: Signature = TEXT,
) -> tuple[InferRequest, Wanted]:
    """An inference request, from the body and the header that says where its JSON ends.

    Raises InvalidRequestError.
    """
    end = _json_end(header_length, len(raw))
    body = decode(raw[:end], InferBody)
    parameters = dict(body.parameters or {})
    binary = _flag(parameters.pop("binary_data_output", False), "binary_data_output")
    parameters.pop("triton_enable_empty_final_response", None)  # the last response is marked as such anyway
    inputs: dict[str, list[Value]] = {}
    batched = False
    for at, item in enumerate(body.inputs):
        signature.check_input(item.name, item.datatype, item.shape)
        size = _binary_size(item)
        if size is not None:
            if end + size > len(raw):
                raise invalid(item.name, f"is {size} bytes long, and {len(raw) - end} are left of the body.")
            tensor = from_binary(item.name, item.datatype, item.shape, raw[end : end + size])
            end += size
        elif item.data is not None:
            tensor = from_json(item.name, item.datatype, item.shape, item.data)
        else:
            raise InvalidRequestError(
                f"'inputs[{at}].data' is missing.", param=f"inputs[{at}].data", code="missing_field"
            )
        if item.name in inputs:
            raise invalid(item.name, "is there twice.")
        inputs[item.name] = tensor.values
        batched |= item.name == "text_input" and len(item.shape) == 2
    if end != len(raw):
        raise InvalidRequestError(
            f"The body goes on for {len(raw) - end} bytes after its last tensor.", code="invalid_tensor"
        )
    names, wanted = _read_outputs(body.outputs or [], signature, binary=binary)
    request = InferRequest(model, version, body.id, parameters, inputs, names, batched, arrived)
    return request, wanted


def read_generate(raw: bytes, *, model: str, version: str, arrived: float, signature: Signature = TEXT) -> InferRequest:
    """A request of the generate extension: inputs by name, as they are or among `parameters`. Raises as above."""
    body = decode(raw, dict[str, Any])
    nested = body.pop("parameters", None)
    if not isinstance(nested, dict | None):
        raise InvalidRequestError("'parameters' must be an object.", param="parameters", code="invalid_value")
    request_id = body.pop("id", None)
    small = isinstance(request_id, int) and not isinstance(request_id, bool) and abs(request_id) < 2**64
    if not (small or request_id is None or isinstance(request_id, str)):
        raise InvalidRequestError("'id' must be a string.", param="id", code="invalid_value")
    for name in body.keys() & (nested or {}).keys():
        raise InvalidRequestError(
            f"'{name[:256]}' is there twice, in 'parameters' and beside it.", param=name[:256], code="invalid_value"
        )
    given = {**body, **(nested or {})}
    inputs: dict[str, list[Value]] = {}
    for name in given.keys() & {*signature.inputs, *signature.refused}:
        value = given.pop(name)
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        datatype = signature.inputs[name].datatype if name in signature.inputs else ""
        signature.check_input(name, datatype, [len(values)])
        inputs[name] = from_json(name, datatype, [len(values)], values).values
    request_id = "" if request_id is None else str(request_id)
    return InferRequest(model, version, request_id, given, inputs, (), batched=False, arrived=arrived)


def write_infer(response: InferResponse, wanted: Wanted) -> tuple[bytes, dict[str, str]]:
    """The answer's body, and the headers that belong to it."""
    outputs, tail = [], []
    for tensor in response.outputs:
        if wanted.in_binary(tensor.name):
            tail.append(to_binary(tensor))
            outputs.append(_output(tensor, parameters={"binary_data_size": len(tail[-1])}))
        else:
            outputs.append(_output(tensor, data=to_json(tensor)))
    head = _encode(InferAnswer(response.model, response.version, outputs, response.id))
    if not tail:
        return head, {"content-type": "application/json"}
    return b"".join((head, *tail)), {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}


def generated(response: InferResponse) -> dict[str, Any]:
    """A response of the generate extension: outputs by name, a lone element without its list."""
    body: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if response.id:
        body["id"] = response.id
    for tensor in response.outputs:
        values = to_json(tensor)
        body[tensor.name] = values[0] if len(values) == 1 else values
    return body


def _output(tensor: Tensor, **rest: Any) -> OutputTensor:
    return OutputTensor(tensor.name, tensor.datatype, [*tensor.shape], **rest)


def _json_end(header_length: str | None, size: int) -> int:
    if header_length is None:
        return size
    short = header_length.isascii() and header_length.isdecimal() and len(header_length) < 20
    if not short or int(header_length) > size:
        raise InvalidRequestError(
            f"The header Inference-Header-Content-Length is {header_length[:64]!r}; the body has {size} bytes.",
            param=HEADER_LENGTH,
            code="invalid_header",
        )
    return int(header_length)


def _binary_size(item: InputBody) -> int | None:
    """Bytes of an input's data after the JSON; None if it is in the JSON."""
    size = None
    for name, value in (item.parameters or {}).items():
        if name != "binary_data_size":
            raise no_tensor_parameter(item.name, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise invalid(item.name, "has a 'binary_data_size' that is no number of bytes.")
        size = value
    if size is not None and item.data is not None:
        raise invalid(item.name, "has its data twice, in the JSON and after it.")
    return size


def _read_outputs(asked: list[OutputBody], signature: Signature, *, binary: bool) -> tuple[tuple[str, ...], Wanted]:
    others = set()
    for output in asked:
        signature.check_output(output.name)
        for name, value in (output.parameters or {}).items():
            if name != "binary_data":
                raise no_tensor_parameter(output.name, name)
            if _flag(value, f"outputs.{output.name}.binary_data") != binary:
                others.add(output.name)
    return tuple(dict.fromkeys(output.name for output in asked)), Wanted(binary, others)


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequestError(f"'{name}' must be true or false.", param=name, code="invalid_value")
    return value


def _damaged(encoding: str) -> InvalidRequestError:
    return InvalidRequestError(f"The body is not valid {encoding}.", param="content-encoding", code="invalid_encoding")
