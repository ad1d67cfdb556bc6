"""Where the public references are: an address a field, made from the API's and the field's name.

Each function returns an address with `{field}` in it, or without where the reference has no anchor a field.
"""

from __future__ import annotations

from urllib.parse import quote

_OPENAI = "https://developers.openai.com/api/reference/resources/"
_VLLM = "https://docs.vllm.ai/en/stable/serving/online_serving/"

VLLM_LORA = "https://docs.vllm.ai/en/stable/features/lora/"
VLLM_RESPONSES = _VLLM + "openai_compatible_server/#responses-api"
PENSTOCK = "serving.md#watching-it"  # endpoints of our own; beside the page that is made from the manifest


def openai_parameter(page: str, resource: str, method: str = "create") -> str:
    """A field of a request's body.

    Args:
        page: of the resource, such as "chat/subresources/completions".
        resource: its name in anchors, such as "chat.completions".
        method: of the resource.
    """
    return _anchored(f"{page}/methods/{method}", f"(resource) {resource} > (method) {method} > (params) 0", "param")


def openai_streaming_parameter(page: str, resource: str, method: str = "create") -> str:
    """The same where the reference tells streamed requests from others."""
    place = f"(resource) {resource} > (method) {method} > (params) 0.non_streaming"
    return _anchored(f"{page}/methods/{method}", place, "param")


def openai_property(page: str, resource: str, model: str, *inside: str) -> str:
    """A field of an object.

    Args:
        page: of the resource.
        resource: its name in anchors.
        model: the object's name in anchors.
        inside: properties that lead to the field, "[]" after one that is a list.
    """
    place = f"(resource) {resource} > (model) {model} > (schema)"
    for name in inside:
        place += f" > (property) {name.removesuffix('[]')}" + (" > (items)" if name.endswith("[]") else "")
    return _anchored(page, place, "property")


LLAMA_CPP_SERVER = "https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md"
OLLAMA_API = "https://github.com/ollama/ollama/blob/main/docs/api.md"


def vllm(section: str) -> str:
    """A section of vLLM's pages on online serving, as "openai_compatible_server/#chat-api"; fields have no anchor."""
    return _VLLM + section


def _anchored(page: str, place: str, kind: str) -> str:
    anchor = f"{place} > ({kind}) {{field}}" + (" > (schema)" if kind == "param" else "")
    return f"{_OPENAI}{page}#{quote(anchor, safe='{}')}"
