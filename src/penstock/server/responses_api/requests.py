"""What clients of the Responses API may ask: the body, with the range of each field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from penstock.server.requests import (
    INT32,
    Documents,
    LogitBias,
    Penalty,
    Probability,
    StopString,
    StructuredOutputs,
    TokenId,
)

ITEM_TYPES = ["message", "function_call", "function_call_output", "reasoning"]
PART_TYPES = ["input_text", "output_text", "text", "refusal", "reasoning_text", "summary_text"]

# A stored item says of a text what the client said, and no more: absent fields stay absent.
_Text = str | UnsetType | None


class InputPart(Struct, kw_only=True):
    """One part of an item's content; another type gets an error that says so, hence no Literal."""

    type: Annotated[str, Meta(extra_json_schema={"enum": PART_TYPES})]
    text: _Text = UNSET
    refusal: _Text = UNSET


class InputItem(Struct, kw_only=True):
    """One item of the conversation; another type gets an error that says so, hence no Literal."""

    type: Annotated[str, Meta(extra_json_schema={"enum": ITEM_TYPES})] = "message"
    id: _Text = UNSET
    status: _Text = UNSET
    role: Literal["user", "system", "developer", "assistant"] | UnsetType = UNSET
    content: str | list[InputPart] | UnsetType | None = UNSET
    call_id: _Text = UNSET
    name: _Text = UNSET
    arguments: _Text = UNSET
    output: str | list[InputPart] | UnsetType = UNSET
    summary: list[InputPart] | UnsetType = UNSET
    encrypted_content: _Text = UNSET


class ResponseTool(Struct, kw_only=True):
    """A function that the model may call; another type gets an error that says so, hence no Literal."""

    type: Annotated[str, Meta(extra_json_schema={"enum": ["function"]})]
    name: str | UnsetType = UNSET
    description: _Text = UNSET
    parameters: dict[str, Any] | UnsetType | None = UNSET
    strict: bool | UnsetType | None = UNSET


class ResponseToolChoice(Struct, kw_only=True):
    """The function to call, or the tools to choose from."""

    type: Literal["function", "allowed_tools"]
    name: str | UnsetType = UNSET
    mode: Literal["auto", "required"] | UnsetType = UNSET
    tools: list[dict[str, Any]] | UnsetType = UNSET


class TextFormat(Struct, kw_only=True):
    """Plain text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | UnsetType = UNSET
    schema: dict[str, Any] | UnsetType = UNSET
    description: _Text = UNSET
    strict: bool | UnsetType | None = UNSET


class TextConfig(Struct, kw_only=True):
    """How the answer's text is to be."""

    format: TextFormat | None = None


class ReasoningConfig(Struct, kw_only=True):
    """How to think."""

    effort: str | None = None


class ResponseRequest(Struct, kw_only=True):
    """Body of POST /v1/responses. Names beyond OpenAI's are vLLM's."""

    input: str | Annotated[list[InputItem], Meta(min_length=1)]
    model: str | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    text: TextConfig | None = None
    tools: Annotated[list[ResponseTool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ResponseToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningConfig | None = None
    include: list[str] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=INT32)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: Annotated[dict[str, Annotated[str, Meta(max_length=512)]], Meta(max_length=16)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=INT32)] | None = None
    min_p: Probability | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    seed: int | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=16)] | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=128)] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    logit_bias: LogitBias | None = None
    structured_outputs: StructuredOutputs | None = None
    priority: Annotated[int, Meta(ge=-INT32, le=INT32)] | None = None
    cache_salt: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: Documents | None = None
