"""Every API's fields in one place. An API that joins adds its manifest here, and its objects."""

from __future__ import annotations

from penstock.server.manifest import batches, messages, response_parts, responses
from penstock.server.manifest.adapters import LOAD_ADAPTER, UNLOAD_ADAPTER
from penstock.server.manifest.api import Api
from penstock.server.manifest.field import LLAMA_CPP, OLLAMA, OURS, VLLM, supported
from penstock.server.manifest.generation import CHAT, COMPLETIONS
from penstock.server.manifest.parts import CHAT_PARTS, COMPLETION_PARTS, OTHER_PARTS
from penstock.server.manifest.reading import READING_APIS, READING_PARTS
from penstock.server.manifest.references import (
    LLAMA_CPP_SERVER,
    OLLAMA_API,
    PENSTOCK,
    VLLM_LORA,
    openai_parameter,
    openai_streaming_parameter,
    vllm,
)
from penstock.server.manifest.request_parts import REQUEST_PARTS
from penstock.server.manifest.tokens import DETOKENIZE, TOKENIZE

APIS = (
    Api(
        "chat",
        "POST /v1/chat/completions",
        CHAT,
        {
            "": openai_streaming_parameter("chat/subresources/completions", "chat.completions"),
            VLLM: vllm("openai_compatible_server/#chat-api"),
            OURS: "speculation.md",
            LLAMA_CPP: LLAMA_CPP_SERVER,
            OLLAMA: OLLAMA_API,
        },
    ),
    Api(
        "completions",
        "POST /v1/completions",
        COMPLETIONS,
        {
            "": openai_streaming_parameter("completions", "completions"),
            VLLM: vllm("openai_compatible_server/#completions-api"),
            OURS: "speculation.md",
            LLAMA_CPP: LLAMA_CPP_SERVER,
            OLLAMA: OLLAMA_API,
        },
    ),
    Api(
        "model",
        "GET /v1/models/{model:path}",
        supported(model="in the path; slashes may stand in it"),
        {"": openai_parameter("models", "models", "retrieve")},
    ),
    *READING_APIS,
    Api("tokenize", "POST /tokenize", TOKENIZE, {"": vllm("#utility-apis")}),
    Api("detokenize", "POST /detokenize", DETOKENIZE, {"": vllm("#utility-apis")}),
    Api("load_lora_adapter", "POST /v1/load_lora_adapter", LOAD_ADAPTER, {"": VLLM_LORA}),
    Api("unload_lora_adapter", "POST /v1/unload_lora_adapter", UNLOAD_ADAPTER, {"": VLLM_LORA}),
    Api(
        "tokenizer_info",
        "GET /tokenizer_info",
        supported(model="in the query; the served model if absent"),
        {"": vllm("#utility-apis")},
    ),
    Api(
        "latency",
        "GET /performance/latency",
        supported(target_ms="in the query; default is `--latency-target-ms`"),
        {"": PENSTOCK},
    ),
    *responses.APIS,
    *messages.APIS,
    *batches.APIS,
)

PARTS = (
    *REQUEST_PARTS,
    *CHAT_PARTS,
    *COMPLETION_PARTS,
    *READING_PARTS,
    *OTHER_PARTS,
    *response_parts.PARTS,
    *messages.PARTS,
    *batches.PARTS,
)
