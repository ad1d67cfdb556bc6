"""gRPC messages that are wrong: each is refused by name and status, whatever it holds."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.errors import InvalidRequestError
from penstock.server.kserve import inference_pb2 as pb
from penstock.server.kserve.grpc_messages import read_request
from penstock.server.kserve.signature import INPUTS, OUTPUTS
from penstock.server.kserve.text_request import read_text_request
from support.fake_engine import FakeEngine
from support.kserve_server import kserve_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Infer = pb.ModelInferRequest
PACKED = struct.pack("<I", 3) + b"abc"


@pytest.fixture(scope="module")
def channel(echo_model: Path) -> Iterator[grpc.Channel]:
    with (
        kserve_server(FakeEngine(echo_model), max_body_bytes=64 * 1024) as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        yield channel


def call(channel: grpc.Channel, raw: bytes) -> pb.ModelInferResponse:
    method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    return pb.ModelInferResponse.FromString(method(raw, timeout=20))


def text(**changes: Any) -> Infer.InferInputTensor:
    return Infer.InferInputTensor(**{"name": "text_input", "datatype": "BYTES", "shape": [1], **changes})


def typed(**contents: Any) -> pb.InferTensorContents:
    return pb.InferTensorContents(**contents)


def whole(name: str, datatype: str, raw: bytes, shape: list[int] | None = None) -> Infer:
    """A request whose text is right, and one more input."""
    other = Infer.InferInputTensor(name=name, datatype=datatype, shape=[1] if shape is None else shape)
    return Infer(model_name="Echo-1B", inputs=[text(), other], raw_input_contents=[PACKED, raw])


def test_given_typed_contents_when_inferred_then_they_are_read(channel: grpc.Channel) -> None:
    inputs = [
        text(contents=typed(bytes_contents=[b"abc"])),
        Infer.InferInputTensor(name="max_tokens", datatype="INT32", shape=[1], contents=typed(int_contents=[2])),
        Infer.InferInputTensor(name="top_k", datatype="UINT32", shape=[1], contents=typed(uint_contents=[1])),
        Infer.InferInputTensor(name="seed", datatype="UINT64", shape=[1], contents=typed(uint64_contents=[7])),
        Infer.InferInputTensor(name="temperature", datatype="FP32", shape=[1], contents=typed(fp32_contents=[0])),
        Infer.InferInputTensor(
            name="exclude_input_in_output", datatype="BOOL", shape=[1], contents=typed(bool_contents=[True])
        ),
    ]
    answer = call(channel, Infer(model_name="Echo-1B", inputs=inputs).SerializeToString())
    assert list(answer.raw_output_contents) == [struct.pack("<I", 2) + b"ab"]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Infer(), "'text_input' is missing|not served here"),
        (Infer(model_name="Echo-1B"), "'text_input' is missing"),
        (Infer(model_name="Echo-1B", inputs=[text()]), "has 0 elements"),
        (Infer(model_name="Echo-1B", inputs=[text()], raw_input_contents=[PACKED, PACKED]), "data of 2"),
        (Infer(model_name="Echo-1B", inputs=[text(), text()], raw_input_contents=[PACKED]), "data of 1"),
        (Infer(model_name="Echo-1B", inputs=[text(), text()], raw_input_contents=[PACKED, PACKED]), "is there twice"),
        (Infer(model_name="Echo-1B", raw_input_contents=[PACKED]), "data of 1"),
        (
            Infer(
                model_name="Echo-1B",
                inputs=[text(contents=typed(bytes_contents=[b"a"]))],
                raw_input_contents=[PACKED],
            ),
            "has its data twice",
        ),
        (Infer(model_name="Echo-1B", inputs=[text(contents=typed(int_contents=[1]))]), "belongs in 'bytes_contents'"),
        (
            Infer(model_name="Echo-1B", inputs=[text(contents=typed(bytes_contents=[b"a"], int_contents=[1]))]),
            "belongs in 'bytes_contents'",
        ),
        (Infer(model_name="Echo-1B", inputs=[text(contents=typed(bytes_contents=[b"a", b"b"]))]), "has 2 elements"),
        (Infer(model_name="Echo-1B", inputs=[text(contents=typed(bytes_contents=[b"\xff"]))]), "not valid UTF-8"),
        (Infer(model_name="Echo-1B", inputs=[text()], raw_input_contents=[PACKED[:-1]]), "ends within element 0"),
        (Infer(model_name="Echo-1B", inputs=[text(shape=[-1])], raw_input_contents=[PACKED]), "can't be -1"),
        (Infer(model_name="Echo-1B", inputs=[text(shape=[0])], raw_input_contents=[b""]), "it holds one element"),
        (Infer(model_name="Echo-1B", inputs=[text(shape=[2**62])], raw_input_contents=[PACKED]), "one element"),
        (Infer(model_name="Echo-1B", inputs=[text(shape=[2, 1])], raw_input_contents=[PACKED]), "batch of 1"),
        (Infer(model_name="Echo-1B", inputs=[text(shape=[1] * 9)], raw_input_contents=[PACKED]), "9 dimensions"),
        (whole("max_tokens", "FP32", b"\0" * 4), "it must be INT32"),
        (whole("max_tokens", "INT32", b"\0" * 8), "has 8 bytes of data"),
        (whole("max_tokens", "INT32", struct.pack("<i", -3)), "'max_tokens' is not valid"),
        (whole("temperature", "FP32", struct.pack("<f", float("nan"))), "'temperature' is not valid"),
        (whole("temperature", "FP32", struct.pack("<f", float("inf"))), "'temperature' is not valid"),
        (whole("top_p", "FP64", struct.pack("<d", float("-inf"))), "'top_p' is not valid"),
        (whole("embedding_bias_weights", "FP32", struct.pack("<f", float("nan"))), "each word needs one"),
        (whole("stop_words", "BYTES", b"", [2**62, 2]), "batch of 1"),
        (whole("stop_words", "BYTES", b"", [2**62]), "at most 1024 elements"),
        (whole("stop_words", "BYTES", b"", [7]), "has 0 elements of data"),
        (whole("image", "BYTES", PACKED), "only text goes in"),
        (whole("nothing", "BYTES", PACKED), "no input 'nothing'"),
        (
            Infer(model_name="Echo-1B", inputs=[text()], raw_input_contents=[PACKED], outputs=[{"name": "logits"}]),
            "no output 'logits'",
        ),
        (
            Infer(
                model_name="Echo-1B",
                inputs=[text()],
                raw_input_contents=[PACKED],
                outputs=[{"name": "text_output", "parameters": {"classification": pb.InferParameter(int64_param=2)}}],
            ),
            "'classification' of 'text_output' is not supported",
        ),
        (
            Infer(
                model_name="Echo-1B",
                inputs=[text(parameters={"shared_memory_region": pb.InferParameter(string_param="a")})],
                raw_input_contents=[PACKED],
            ),
            "tensors come with the request here",
        ),
        (
            Infer(
                model_name="Echo-1B",
                inputs=[text()],
                raw_input_contents=[PACKED],
                parameters={"n": pb.InferParameter()},
            ),
            "'n' has no value",
        ),
    ],
)
def test_given_a_request_that_is_wrong_when_inferred_then_it_is_invalid_and_says_where(
    channel: grpc.Channel, request_: Infer, said: str
) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        call(channel, request_.SerializeToString())
    expected = {grpc.StatusCode.INVALID_ARGUMENT} if request_.model_name else {grpc.StatusCode.NOT_FOUND}
    assert failed.value.code() in expected
    assert any(part in failed.value.details() for part in said.split("|"))
    assert dict(failed.value.trailing_metadata())["penstock-code"]


@pytest.mark.parametrize(("name", "version"), [("unknown", ""), ("Echo-1B", "2"), ("", ""), ("é" * 500, "")])
def test_given_a_model_or_version_that_is_not_there_when_inferred_then_it_is_not_found(
    channel: grpc.Channel, name: str, version: str
) -> None:
    request = Infer(model_name=name, model_version=version, inputs=[text()], raw_input_contents=[PACKED])
    with pytest.raises(grpc.RpcError) as failed:
        call(channel, request.SerializeToString())
    assert failed.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe"])
def test_given_bytes_that_are_no_message_when_called_then_they_are_invalid(channel: grpc.Channel, raw: bytes) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        call(channel, raw)
    assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "no ModelInferRequest message" in failed.value.details()
    stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    with pytest.raises(grpc.RpcError) as failed:
        list(stream(iter([raw]), timeout=20))
    assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_given_a_message_over_the_limit_when_called_then_it_is_refused_and_the_next_is_answered(
    channel: grpc.Channel,
) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        call(channel, whole("stop_words", "BYTES", b"x" * 100_000).SerializeToString())
    assert failed.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    request = Infer(model_name="Echo-1B", inputs=[text()], raw_input_contents=[PACKED])
    assert call(channel, request.SerializeToString()).model_version == "1"


DATATYPES = st.sampled_from(["BOOL", "INT32", "UINT64", "FP32", "BYTES", "FP16", ""])
SHAPES = st.lists(st.integers(-1, 3), max_size=3)
CONTENTS = st.builds(
    pb.InferTensorContents,
    bool_contents=st.lists(st.booleans(), max_size=2),
    int_contents=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=2),
    uint64_contents=st.lists(st.integers(0, 2**64 - 1), max_size=2),
    fp32_contents=st.lists(st.floats(width=32), max_size=2),
    bytes_contents=st.lists(st.binary(max_size=5), max_size=2),
)
TENSORS = st.builds(
    Infer.InferInputTensor,
    name=st.sampled_from(sorted(INPUTS)) | st.text(max_size=5),
    datatype=DATATYPES,
    shape=SHAPES,
    contents=st.none() | CONTENTS,
)


def plausible(name: str) -> st.SearchStrategy[Infer.InferInputTensor]:
    """A tensor of the right kind and shape, with any value."""
    known = INPUTS[name]
    field: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
        "BOOL": ("bool_contents", st.booleans()),
        "INT32": ("int_contents", st.integers(-3, 1000)),
        "UINT64": ("uint64_contents", st.integers(0, 2**64 - 1)),
        "FP32": ("fp32_contents", st.floats(width=32)),
        "BYTES": ("bytes_contents", st.binary(max_size=5) | st.just(b'{"n": 2}')),
    }
    contents, values = field[known.datatype]
    return values.map(
        lambda value: Infer.InferInputTensor(
            name=name, datatype=known.datatype, shape=[1], contents=typed(**{contents: [value]})
        )
    )


PARAMETERS = st.dictionaries(
    st.sampled_from(["n", "stop", "seed", "timeout", "logit_bias", "best_of", "x"]),
    st.one_of(
        st.booleans().map(lambda value: pb.InferParameter(bool_param=value)),
        st.integers(-(2**63), 2**63 - 1).map(lambda value: pb.InferParameter(int64_param=value)),
        st.text(max_size=5).map(lambda value: pb.InferParameter(string_param=value)),
        st.floats().map(lambda value: pb.InferParameter(double_param=value)),
    ),
    max_size=2,
)


@given(
    inputs=st.lists(TENSORS | st.sampled_from(sorted(INPUTS)).flatmap(plausible), max_size=4),
    raw=st.lists(st.binary(max_size=12), max_size=4),
    outputs=st.lists(st.sampled_from([*OUTPUTS, "x"]), max_size=2),
    parameters=PARAMETERS,
)
def test_given_any_message_when_read_then_it_is_a_request_or_refused(
    inputs: list[Any], raw: list[bytes], outputs: list[str], parameters: dict[str, Any]
) -> None:
    message = Infer(
        inputs=[text(contents=typed(bytes_contents=[b"abc"])), *inputs],
        raw_input_contents=raw,
        outputs=[{"name": name} for name in outputs],
    )
    for name, value in parameters.items():
        message.parameters[name].CopyFrom(value)
    read = refused_or(lambda: read_text_request(read_request(message, arrived=0.0)))
    if read is not None:
        assert read.text == "abc"
        assert set(read.outputs) <= set(OUTPUTS)


def refused_or(work: Callable[[], Any]) -> Any:
    """What `work` gives; None if it refuses, which must be for people."""
    try:
        return work()
    except InvalidRequestError as error:
        message = error.message
    assert message.endswith((".", "?"))
    return None
