"""What clients of the Responses API get: a response, its items, and the events of a streamed one."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from penstock.server.responses_api.requests import (
    InputItem,
    ReasoningConfig,
    ResponseTool,
    ResponseToolChoice,
    TextConfig,
)

ItemStatus = Literal["in_progress", "completed", "incomplete"]
Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class OutputLogprob(Struct, frozen=True, kw_only=True):
    """One generated token and the likeliest candidates for its place."""

    token: str
    bytes: list[int]
    logprob: float
    top_logprobs: list[OutputTopLogprob]


class OutputTopLogprob(Struct, frozen=True, kw_only=True):
    """One candidate at one position."""

    token: str
    bytes: list[int]
    logprob: float


class OutputText(Struct, frozen=True, kw_only=True, tag_field="type", tag="output_text"):
    """Text of the answer."""

    text: str
    annotations: list[None] = []
    logprobs: list[OutputLogprob] = []


class ReasoningText(Struct, frozen=True, kw_only=True, tag_field="type", tag="reasoning_text"):
    """Text of what was thought."""

    text: str


class OutputMessage(Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """What the model says."""

    id: str
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class OutputReasoning(Struct, frozen=True, kw_only=True, tag_field="type", tag="reasoning"):
    """What the model thought before it said anything. Nothing sums it up."""

    id: str
    status: ItemStatus
    summary: list[None] = []
    content: list[ReasoningText]


class OutputCall(Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call"):
    """A call of one of the client's functions."""

    id: str
    call_id: str
    status: ItemStatus
    name: str
    arguments: str


OutputItem = OutputMessage | OutputReasoning | OutputCall


class InputTokensDetails(Struct, frozen=True):
    """Where the prompt's KV came from."""

    cached_tokens: int


class OutputTokensDetails(Struct, frozen=True):
    """What the generated tokens were for."""

    reasoning_tokens: int


class ResponseUsage(Struct, frozen=True, kw_only=True):
    """Tokens in and out."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(Struct, frozen=True, kw_only=True):
    """Why a response failed."""

    code: str
    message: str


class IncompleteDetails(Struct, frozen=True):
    """Why a response ended early."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseObject(Struct, frozen=True, kw_only=True):
    """Body of an answer that isn't streamed, and of GET /v1/responses/{response_id}."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status
    background: bool
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: ReasoningConfig
    service_tier: Literal["default"] = "default"
    store: bool
    temperature: float
    text: TextConfig
    tool_choice: Literal["none", "auto", "required"] | ResponseToolChoice
    tools: list[ResponseTool]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None = None


class ResponseEvent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event of a streamed response; `type` says which of the other fields it has."""

    type: str
    sequence_number: int
    response: ResponseObject | UnsetType = UNSET
    output_index: int | UnsetType = UNSET
    content_index: int | UnsetType = UNSET
    item_id: str | UnsetType = UNSET
    item: OutputItem | UnsetType = UNSET
    part: OutputText | ReasoningText | UnsetType = UNSET
    delta: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    logprobs: list[OutputLogprob] | UnsetType = UNSET
    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class ResponseDeleted(Struct, frozen=True, kw_only=True):
    """Body of an answer of DELETE /v1/responses/{response_id}."""

    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


class ItemList(Struct, frozen=True, kw_only=True):
    """A page of a response's input items."""

    object: Literal["list"] = "list"
    data: list[InputItem]
    first_id: str | None
    last_id: str | None
    has_more: bool
