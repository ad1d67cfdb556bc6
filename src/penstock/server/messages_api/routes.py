"""The endpoints of the Messages API."""

from __future__ import annotations

from penstock.server.endpoint import BODY_ERRORS, GENERATION_ERRORS, Endpoint
from penstock.server.messages_api import objects, requests
from penstock.server.messages_api.endpoints import count_message_tokens, messages

ENDPOINTS = (
    Endpoint(
        "/v1/messages",
        "POST",
        messages,
        "Answer a conversation, in Anthropic's shape",
        takes=requests.MessagesRequest,
        gives=objects.AnthropicAnswer,
        chunk=objects.MessageEvent,
        errors=GENERATION_ERRORS,
        error_body=objects.AnthropicError,
        events="named",
    ),
    Endpoint(
        "/v1/messages/count_tokens",
        "POST",
        count_message_tokens,
        "How many tokens such a prompt has",
        takes=requests.CountRequest,
        gives=objects.TokenCount,
        errors=(*BODY_ERRORS, 422),
        error_body=objects.AnthropicError,
    ),
)
