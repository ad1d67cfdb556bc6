"""What clients of the Messages API may ask: the bodies, with the range of each field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from penstock.server.requests import INT32, Documents, StopString


class Block(Struct, kw_only=True):
    """One block of a message's content; a type that isn't known gets an error that says so, hence no Literal."""

    type: Annotated[
        str, Meta(extra_json_schema={"enum": ["text", "tool_use", "tool_result", "thinking", "redacted_thinking"]})
    ]
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[dict[str, Any]] | None = None
    is_error: bool | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None


class AnthropicMessage(Struct, kw_only=True):
    """One turn of the conversation."""

    role: Literal["user", "assistant"]
    content: str | list[Block]


class AnthropicTool(Struct, kw_only=True):
    """A function that the model may call. Only the client's own; Anthropic's server tools are refused by type."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    input_schema: dict[str, Any] | None = None
    description: str | None = None
    type: str | None = None
    strict: bool | None = None


class AnthropicToolChoice(Struct, kw_only=True):
    """Whether and what to call."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Struct, kw_only=True):
    """Whether to think first, and for how many tokens at most."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Meta(ge=1, le=INT32)] | None = None


class OutputFormat(Struct, kw_only=True):
    """A JSON schema that the answer's text must match."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Struct, kw_only=True):
    """How the answer's text is to be."""

    format: OutputFormat | None = None
    effort: str | None = None


class CountRequest(Struct, kw_only=True):
    """Body of POST /v1/messages/count_tokens. Names beyond Anthropic's are vLLM's."""

    model: str
    messages: Annotated[list[AnthropicMessage], Meta(min_length=1)]
    system: str | list[Block] | None = None
    tools: Annotated[list[AnthropicTool], Meta(max_length=128)] | None = None
    tool_choice: AnthropicToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class MessagesRequest(CountRequest, kw_only=True):
    """Body of POST /v1/messages."""

    max_tokens: Annotated[int, Meta(ge=1, le=INT32)]
    stream: bool | None = None
    stop_sequences: Annotated[list[StopString], Meta(max_length=16)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=INT32)] | None = None
    priority: Annotated[int, Meta(ge=-INT32, le=INT32)] | None = None
    cache_salt: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    documents: Documents | None = None
