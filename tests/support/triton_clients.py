"""Inputs of `tritonclient`, for gRPC and for HTTP alike: `of(tritonclient.grpc, text_input="hi", max_tokens=4)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from types import ModuleType

DTYPES = {"BYTES": np.object_, "BOOL": np.bool_, "INT32": np.int32, "UINT64": np.uint64, "FP32": np.float32}
KINDS = {
    **dict.fromkeys(
        ("text_input", "query", "sampling_parameters", "stop_words", "bad_words", "embedding_bias_words"), "BYTES"
    ),
    **dict.fromkeys(("stream", "exclude_input_in_output", "return_context_logits"), "BOOL"),
    **dict.fromkeys(("temperature", "top_p", "repetition_penalty", "presence_penalty", "frequency_penalty"), "FP32"),
    **dict.fromkeys(("length_penalty", "embedding_bias_weights"), "FP32"),
    **dict.fromkeys(("seed", "random_seed"), "UINT64"),
}


def of(client: ModuleType, *, batch: bool = False, **values: Any) -> list[Any]:
    """One input a keyword; a list holds several elements, `batch` puts a dimension of 1 before."""
    inputs = []
    for name, value in values.items():
        kind = KINDS.get(name) or ("BOOL" if name.startswith("return_") else "INT32")
        elements = value if isinstance(value, list) else [value]
        if kind == "BYTES":
            elements = [each.encode() if isinstance(each, str) else each for each in elements]
        array = np.array(elements, dtype=DTYPES[kind])
        if batch:
            array = array[None]
        tensor = client.InferInput(name, list(array.shape), kind)
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs
