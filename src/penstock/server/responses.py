"""What clients get: the response bodies. Shapes are OpenAI's; fields beyond them are vLLM's."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType


class PromptTokensDetails(Struct, frozen=True):
    """Where the prompt's KV came from."""

    cached_tokens: int


class CompletionTokensDetails(Struct, frozen=True):
    """What the generated tokens were for."""

    reasoning_tokens: int


class Usage(Struct, frozen=True):
    """Tokens in and out; a prompt counts once, however many choices it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | UnsetType = UNSET


class TopLogprob(Struct, frozen=True):
    """One candidate at one position. `bytes` are the token's own, which need not be whole characters."""

    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(Struct, frozen=True):
    """One generated token and the likeliest candidates for its place."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct, frozen=True):
    """Log probabilities of a chat choice."""

    content: list[ChatLogprob]
    refusal: None = None


class CompletionLogprobs(Struct, frozen=True):
    """Log probabilities of a completion: four lists, one entry a token. `text_offset` counts characters."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class PromptLogprob(Struct, frozen=True):
    """One candidate at one prompt position."""

    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]  # by token id; nothing precedes the first token


class CalledFunction(Struct, frozen=True):
    """The function that is called; `arguments` is JSON."""

    name: str
    arguments: str


class MessageToolCall(Struct, frozen=True):
    """One call of a whole answer."""

    id: str
    function: CalledFunction
    type: Literal["function"] = "function"


class AssistantMessage(Struct, frozen=True):
    """The whole answer. `reasoning` is vLLM's newer name of `reasoning_content`; clients read the one or the other."""

    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[MessageToolCall] | UnsetType = UNSET


class ChatChoice(Struct, frozen=True, kw_only=True):
    """One answer of a chat completion."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str
    stop_reason: int | str | None = None


class ChatCompletion(Struct, frozen=True, kw_only=True):
    """Body of a chat completion that isn't streamed."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class FunctionDelta(Struct, frozen=True, omit_defaults=True):
    """The function's name, once, and more of the JSON text of its arguments."""

    arguments: str | None = None
    name: str | None = None


class ToolCallDelta(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """More of one call; its first delta has the id, the type and the name."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class Delta(Struct, frozen=True, omit_defaults=True):
    """What has come since the last chunk."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(Struct, frozen=True, kw_only=True):
    """One answer's share of a chunk."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | UnsetType = UNSET


class ChatChunk(Struct, frozen=True, kw_only=True):
    """One event of a streamed chat completion."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType | None = UNSET


class CompletionChoice(Struct, frozen=True, kw_only=True):
    """One text, or one text's share of a chunk."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class Completion(Struct, frozen=True, kw_only=True):
    """Body of a text completion, and each event of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET


class ModelCard(Struct, frozen=True, kw_only=True):
    """One name that a model answers to; an alias names the model itself as its `root`.

    An adapter names its directory there, and the model as its `parent`.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "penstock"
    root: str
    parent: str | None = None
    max_model_len: int | None  # None: not loaded yet


class ModelList(Struct, frozen=True, kw_only=True):
    """Body of GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Tokenized(Struct, frozen=True, kw_only=True):
    """Body of an answer of /tokenize."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class Detokenized(Struct, frozen=True):
    """Body of an answer of /detokenize."""

    prompt: str


class TokenizerInfo(Struct, frozen=True, kw_only=True):
    """Body of GET /tokenizer_info: what tokenizer_config.json says of a model directory, from any model file."""

    tokenizer_class: Literal["PreTrainedTokenizerFast"] = "PreTrainedTokenizerFast"
    vocab_size: int
    model_max_length: int
    add_bos_token: bool
    add_eos_token: bool
    bos_token: str | None
    eos_token: str | None
    unk_token: str | None
    pad_token: str | None
    sep_token: str | None
    cls_token: str | None
    mask_token: str | None
    additional_special_tokens: list[str]
    chat_template: str | None


class Health(Struct, frozen=True, kw_only=True):
    """The HTTP process is alive; `engine` says how the first model's core does, `models` how each one's."""

    status: Literal["ok"] = "ok"
    engine: str
    restarts: int
    models: dict[str, str]


class Ready(Struct, frozen=True):
    """The model can serve now."""

    status: Literal["ready"] = "ready"


class Version(Struct, frozen=True, kw_only=True):
    """What is running."""

    version: str
    model: str
    max_model_len: int | None
    runner: dict[str, str]


class LatencySummary(Struct, frozen=True, kw_only=True):
    """One latency over the window; all None while no request has finished."""

    within_target: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class LatencyReport(Struct, frozen=True, kw_only=True):
    """Body of GET /performance/latency."""

    target_ms: float
    requests: int
    window_seconds: float
    duration: LatencySummary
    time_to_first_token: LatencySummary


class ErrorDetail(Struct, frozen=True, kw_only=True):
    """What was wrong, where, and a stable name for it."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(Struct, frozen=True):
    """Body of every answer that isn't a success, and of an error event in a stream."""

    error: ErrorDetail
