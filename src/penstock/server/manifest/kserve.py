"""Tensors of the KServe protocol, from the signature that requests are checked by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.server.kserve import refused
from penstock.server.kserve.signature import INPUTS, NO_EFFECT, OUTPUTS
from penstock.server.manifest.api import Api
from penstock.server.manifest.field import Field

if TYPE_CHECKING:
    from penstock.server.manifest.field import Manifest, Support

_VLLM = "https://github.com/triton-inference-server/vllm_backend"
_TENSORRT_LLM = "https://github.com/triton-inference-server/tensorrtllm_backend"
_ENDPOINT = "POST /v2/models/{model:path}/infer"
_OF_VLLM = frozenset(
    {
        "text_input", "stream", "sampling_parameters", "exclude_input_in_output", "image", "embedding_request",
        "return_finish_reason", "return_cumulative_logprob", "return_logprobs", "return_num_input_tokens",
        "return_num_output_tokens", "text_output", "finish_reason", "cumulative_logprob", "logprobs",
        "num_input_tokens", "num_output_tokens",
    }
)  # fmt: skip


def _entry(name: str, support: Support, note: str, neutral: tuple[object, ...] = ()) -> Field:
    return Field(support, note, neutral, "" if name in _OF_VLLM else "TensorRT-LLM")


_TAKEN: Manifest = {
    name: _entry(name, "no effect", of.note)
    if name in NO_EFFECT
    else _entry(name, "supported" if of.neutral is None else "refused", of.note, of.neutral or ())
    for name, of in INPUTS.items()
}
_REFUSED: Manifest = {name: _entry(name, "refused", why) for name, why in refused.INPUTS.items()}
_GIVEN: Manifest = {name: _entry(name, "supported", of.note) for name, of in OUTPUTS.items()}
_ORIGINS = {"": _VLLM, "TensorRT-LLM": _TENSORRT_LLM}

TENSORS = (
    Api("infer", _ENDPOINT, {**_TAKEN, **_REFUSED}, _ORIGINS),
    Api("inferred", _ENDPOINT, _GIVEN, _ORIGINS),
)
