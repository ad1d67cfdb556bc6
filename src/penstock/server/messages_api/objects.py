"""What clients of the Messages API get: a message, the events of a streamed one, and errors."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType


class TextBlock(Struct, frozen=True, tag_field="type", tag="text"):
    """Text of the answer."""

    text: str
    citations: None = None


class ThinkingBlock(Struct, frozen=True, tag_field="type", tag="thinking"):
    """What the model thought first; nothing is signed here, so `signature` is empty."""

    thinking: str
    signature: str = ""


class ToolUseBlock(Struct, frozen=True, tag_field="type", tag="tool_use"):
    """A call of one of the client's tools."""

    id: str
    name: str
    input: dict[str, Any]


AnswerBlock = TextBlock | ThinkingBlock | ToolUseBlock


class ThinkingTokens(Struct, frozen=True):
    """What the generated tokens were for."""

    thinking_tokens: int


class MessageUsage(Struct, frozen=True, kw_only=True):
    """Tokens; the whole prompt is `input_tokens` and `cache_read_input_tokens` together."""

    input_tokens: int
    output_tokens: int
    output_tokens_details: ThinkingTokens
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation: None = None
    server_tool_use: None = None
    service_tier: Literal["standard"] = "standard"
    inference_geo: None = None


class AnthropicAnswer(Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """Body of an answer that isn't streamed."""

    id: str
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[AnswerBlock]
    stop_reason: str | None
    stop_sequence: str | None
    stop_details: None = None
    container: None = None
    usage: MessageUsage


class EventDelta(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """More of a block, or at the end of the answer, why it ended."""

    type: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    thinking: str | UnsetType = UNSET
    partial_json: str | UnsetType = UNSET
    stop_reason: str | UnsetType = UNSET
    stop_sequence: str | UnsetType | None = UNSET


class AnthropicErrorDetail(Struct, frozen=True):
    """What was wrong."""

    type: str
    message: str


class AnthropicError(Struct, frozen=True, kw_only=True, tag_field="type", tag="error"):
    """Body of every answer under /v1/messages that isn't a success."""

    error: AnthropicErrorDetail


class MessageEvent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event of a streamed message."""

    type: str
    message: AnthropicAnswer | UnsetType = UNSET
    index: int | UnsetType = UNSET
    content_block: AnswerBlock | UnsetType = UNSET
    delta: EventDelta | UnsetType = UNSET
    usage: MessageUsage | UnsetType = UNSET
    error: AnthropicErrorDetail | UnsetType = UNSET


class TokenCount(Struct, frozen=True):
    """Body of an answer of /v1/messages/count_tokens."""

    input_tokens: int


_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def anthropic_error(status: int, message: str) -> AnthropicErrorDetail:
    """An error of this status as Anthropic's API calls it."""
    otherwise = "api_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    return AnthropicErrorDetail(_ERROR_TYPES.get(status, otherwise), message)
