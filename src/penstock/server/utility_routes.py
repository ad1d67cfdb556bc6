"""The endpoints for tokens and for adapters."""

from __future__ import annotations

from penstock.server import adapters, requests, responses, tokens
from penstock.server.endpoint import BODY_ERRORS, Endpoint

ENDPOINTS = (
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
)
