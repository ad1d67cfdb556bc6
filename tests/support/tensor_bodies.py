"""Bodies for the KServe protocol, made of those that its schema alone would let through."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

from penstock.server.kserve.http_body import HEADER_LENGTH
from penstock.server.kserve.signature import INPUTS, OUTPUTS

if TYPE_CHECKING:
    from schemathesis import Case

MODEL = {"model": "Echo-1B", "version": "1"}
_DATA = {"BYTES": "text", "BOOL": False, "FP32": 1.0}
_NEUTRAL = {"stream": False, "sampling_parameters": "{}", "max_tokens": 3, "end_id": -1, "embedding_bias_words": []}
_NEUTRAL |= {"embedding_bias_weights": [], "random_seed": None, "min_length": None}  # no two names of one field


def fit(case: Case, *, streams: bool) -> None:
    """Make a case one that a text model can answer, in what no schema says."""
    case.path_parameters |= {name: value for name, value in MODEL.items() if name in case.path_parameters}
    case.headers.pop(HEADER_LENGTH, None)
    if case.media_type == "application/octet-stream":
        case.body, length = in_binary("text" + str(len(case.body)))
        case.headers[HEADER_LENGTH] = str(length)
    elif isinstance(case.body, dict):
        case.body = _tensors(case.body) if case.path.endswith("/infer") else _by_name(case.body, streams=streams)


def in_binary(text: str) -> tuple[bytes, int]:
    """A request whose text stands after the JSON, and the length of the JSON."""
    data = struct.pack("<I", len(text.encode())) + text.encode()
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + data, len(head)


def _tensors(body: dict[str, Any]) -> dict[str, Any]:
    """Known inputs, as many as there are; known outputs, in binary or not."""
    count = len(body.get("inputs") or ())
    names = ["text_input", *(name for name in INPUTS if name not in {"text_input", *_NEUTRAL})][: 1 + count]
    inputs = [{"name": name, "datatype": INPUTS[name].datatype, "shape": [1], "data": [_value(name)]} for name in names]
    outputs = [
        {"name": name, "parameters": {"binary_data": bool(asked.get("parameters"))}}
        for name, asked in zip(OUTPUTS, body.get("outputs") or (), strict=False)
    ]
    return {**body, "inputs": inputs, "outputs": outputs or None, "parameters": None}


def _by_name(body: dict[str, Any], *, streams: bool) -> dict[str, Any]:
    known = {name: value for name, value in body.items() if name in INPUTS or name == "id"}
    for name, value in known.items():
        if name in _NEUTRAL:
            known[name] = _NEUTRAL[name]
        elif name != "id" and value is not None:
            known[name] = [_value(name)] if isinstance(value, list) else _value(name)
    if isinstance(known.get("id"), int):
        known["id"] %= 2**63
    return {**known, "text_input": "text", "stream": streams and bool(body.get("stream"))}


def _value(name: str) -> Any:
    of = INPUTS[name]
    return of.neutral[0] if of.neutral else _DATA.get(of.datatype, 1)
