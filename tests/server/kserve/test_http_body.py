"""Bodies over HTTP: whatever comes is a request or refused, whatever is answered can be read."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.errors import PenstockError
from penstock.server.kserve.http_body import compressed, read_generate, read_infer, uncompressed
from penstock.server.kserve.signature import INPUTS
from penstock.server.kserve.text_request import read_text_request

LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4)
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
NAMES = st.sampled_from([*INPUTS, "image", "parameters", "id", "n", "stop", "logit_bias"]) | st.text(max_size=3)
TENSOR = st.fixed_dictionaries(
    {
        "name": NAMES,
        "datatype": st.sampled_from(["BYTES", "INT32", "FP32", "BOOL"]) | JSON,
        "shape": st.lists(st.integers(-1, 3), max_size=3) | JSON,
    },
    optional={"data": st.lists(LEAVES, max_size=3) | JSON, "parameters": JSON},
)
TEXT = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["abc"]}


def refused_or_read(read: Any) -> None:
    """A request, or an error for people."""
    try:
        read_text_request(read())
    except PenstockError as error:
        message = error.message
    else:
        return
    assert message.endswith((".", "?"))


@given(
    inputs=st.lists(TENSOR, max_size=3),
    parameters=st.dictionaries(NAMES, JSON, max_size=2),
    tail=st.binary(max_size=8),
    short=st.integers(-1, 9),
)
def test_given_any_body_when_read_as_inference_then_it_is_a_request_or_refused(
    inputs: list[Any], parameters: dict[str, Any], tail: bytes, short: int
) -> None:
    raw = json.dumps({"inputs": [TEXT, *inputs], "parameters": parameters}).encode()
    header = str(len(raw) - short) if tail or short else None
    refused_or_read(lambda: read_infer(raw + tail, header, model="m", version="", arrived=0.0)[0])


@given(st.dictionaries(NAMES, JSON, max_size=4))
def test_given_any_object_when_read_as_a_text_to_generate_from_then_it_is_a_request_or_refused(
    body: dict[str, Any],
) -> None:
    raw = json.dumps({"text_input": "abc", **body}).encode()
    refused_or_read(lambda: read_generate(raw, model="m", version="", arrived=0.0))


@given(raw=st.binary(max_size=200), encoding=st.sampled_from(["gzip", "deflate", "GZIP ", "identity", ""]))
def test_given_any_bytes_when_decompressed_then_never_more_than_allowed_comes_out(raw: bytes, encoding: str) -> None:
    try:
        plain = uncompressed(raw, encoding, 100)
    except PenstockError:
        return
    assert len(plain) <= max(100, len(raw))


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip", "gzip"),
        ("GZIP, deflate", "gzip"),
        ("deflate, br", "deflate"),
        ("gzip;q=0, deflate;q=0.5", "deflate"),
        ("gzip; q=0", ""),
        ("br", ""),
        ("identity", ""),
        ("", ""),
    ],
)
def test_given_what_a_client_takes_when_compressed_then_it_gets_one_of_them(accepted: str, encoding: str) -> None:
    body, chosen = compressed(b"abc" * 50, accepted)
    assert chosen == encoding
    restored = {"gzip": gzip.decompress, "deflate": zlib.decompress, "": bytes}[chosen](body)
    assert restored == b"abc" * 50


@pytest.mark.parametrize(("sent", "read"), [("mine", "mine"), (7, "7"), (None, ""), ("", "")])
def test_given_an_id_when_read_then_it_is_text(sent: object, read: str) -> None:
    raw = json.dumps({"text_input": "abc", "id": sent}).encode()
    assert read_generate(raw, model="m", version="", arrived=0.0).id == read


@pytest.mark.parametrize("sent", [{"a": 1}, [], True, 1.5, 10**30])
def test_given_an_id_that_is_no_text_when_read_then_it_is_refused(sent: object) -> None:
    raw = json.dumps({"text_input": "abc", "id": sent}).encode()
    with pytest.raises(PenstockError, match="'id' must be a string"):
        read_generate(raw, model="m", version="", arrived=0.0)
