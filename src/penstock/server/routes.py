"""Every endpoint, once: the router and the OpenAPI document are both made from this table."""

from __future__ import annotations

from penstock.server import adapters, reading, requests, responses, scoring, status, tokens
from penstock.server.batches.routes import ENDPOINTS as BATCH_ENDPOINTS
from penstock.server.chat import chat_completions
from penstock.server.completions import completions
from penstock.server.embeddings import embeddings
from penstock.server.endpoint import BODY_ERRORS, GENERATION_ERRORS, Endpoint
from penstock.server.messages_api.routes import ENDPOINTS as MESSAGES_ENDPOINTS
from penstock.server.responses_api.routes import ENDPOINTS as RESPONSES_ENDPOINTS

ENDPOINTS = (
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
    *RESPONSES_ENDPOINTS,
    *MESSAGES_ENDPOINTS,
    *BATCH_ENDPOINTS,
    Endpoint(
        "/v1/embeddings",
        "POST",
        embeddings,
        "Vectors of texts",
        takes=reading.EmbeddingRequest,
        gives=reading.Embeddings,
        errors=GENERATION_ERRORS,
    ),
    Endpoint(
        "/rerank",
        "POST",
        scoring.rerank,
        "Order documents by a query",
        takes=reading.RerankRequest,
        gives=reading.Ranking,
        errors=GENERATION_ERRORS,
        aliases=("/v1/rerank", "/v2/rerank"),
    ),
    Endpoint(
        "/score",
        "POST",
        scoring.score,
        "How much two texts have to do with each other",
        takes=reading.ScoreRequest,
        gives=reading.Scores,
        errors=GENERATION_ERRORS,
        aliases=("/v1/score",),
    ),
    Endpoint(
        "/classify",
        "POST",
        scoring.classify,
        "Classes of texts",
        takes=reading.ClassifyRequest,
        gives=reading.Classifications,
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
    Endpoint(
        "/v1/load_lora_adapter",
        "POST",
        adapters.load_adapter,
        "Serve a low-rank adapter",
        takes=requests.LoadAdapterRequest,
        errors=(*BODY_ERRORS, 422, 500, 503),
    ),
    Endpoint(
        "/v1/unload_lora_adapter",
        "POST",
        adapters.unload_adapter,
        "Serve a low-rank adapter no more",
        takes=requests.UnloadAdapterRequest,
        errors=(*BODY_ERRORS, 503),
    ),
    Endpoint(
        "/tokenize",
        "POST",
        tokens.tokenize,
        "Text or messages to token ids",
        takes=requests.TokenizeRequest,
        gives=responses.Tokenized,
        errors=(*BODY_ERRORS, 422),
    ),
    Endpoint(
        "/detokenize",
        "POST",
        tokens.detokenize,
        "Token ids to text",
        takes=requests.DetokenizeRequest,
        gives=responses.Detokenized,
        errors=BODY_ERRORS,
    ),
    Endpoint(
        "/tokenizer_info",
        "GET",
        tokens.tokenizer_info,
        "Special tokens, vocabulary and chat template",
        gives=responses.TokenizerInfo,
        query={"model": {"type": "string"}},
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
