"""Where every request goes. What nearly every server is asked for is imported before it is ready, the rest at need."""

from __future__ import annotations

from penstock.server import requests, responses, status
from penstock.server.chat import chat_completions
from penstock.server.completions import completions
from penstock.server.endpoint import GENERATION_ERRORS, Endpoint, EndpointGroup

READY_ENDPOINTS = (
    Endpoint(
        "/v1/chat/completions",
        "POST",
        chat_completions,
        "Answer a conversation",
        takes=requests.ChatRequest,
        gives=responses.ChatCompletion,
        chunk=responses.ChatChunk,
        errors=GENERATION_ERRORS,
    ),
    Endpoint(
        "/v1/completions",
        "POST",
        completions,
        "Go on with a text",
        takes=requests.CompletionRequest,
        gives=responses.Completion,
        chunk=responses.Completion,
        errors=GENERATION_ERRORS,
    ),
    Endpoint("/v1/models", "GET", status.list_models, "Names of the model", gives=responses.ModelList),
    Endpoint(
        "/v1/models/{model:path}",
        "GET",
        status.show_model,
        "One name of the model",
        gives=responses.ModelCard,
        errors=(404,),
    ),
    Endpoint("/health", "GET", status.health, "Is the process alive", gives=responses.Health),
    Endpoint("/ready", "GET", status.ready, "Can it serve now", gives=responses.Ready, errors=(503,)),
    Endpoint("/version", "GET", status.version, "What is running", gives=responses.Version),
    Endpoint(
        "/performance/latency",
        "GET",
        status.latency,
        "Share of recent requests within a target",
        gives=responses.LatencyReport,
        query={"target_ms": {"type": "number", "exclusiveMinimum": 0}},
        errors=(400,),
    ),
    Endpoint("/metrics", "GET", status.metrics, "Metrics for Prometheus"),
)

GROUPS = (
    EndpointGroup("penstock.server.responses_api.routes", ("/v1/responses",)),
    EndpointGroup("penstock.server.messages_api.routes", ("/v1/messages",)),
    EndpointGroup("penstock.server.batches.routes", ("/v1/files", "/v1/batches")),
    EndpointGroup(
        "penstock.server.reading_routes",
        ("/v1/embeddings", "/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score", "/classify"),
    ),
    EndpointGroup(
        "penstock.server.utility_routes",
        ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/tokenize", "/detokenize", "/tokenizer_info"),
    ),
)
