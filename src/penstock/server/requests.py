"""What clients may ask: the request bodies, with the range of each field.

The OpenAPI document is made from these types, and bodies are decoded straight into them, so what is documented
is what is checked. Fields that are known but have no effect, or are refused, stand in `manifest`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

INT32 = 2**31 - 1

Probability = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
StopString = Annotated[str, Meta(min_length=1, max_length=1000)]
TokenId = Annotated[int, Meta(ge=0, le=INT32)]
LogitBias = Annotated[dict[int, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=1024)]


class StreamOptions(Struct, kw_only=True):
    """What a stream says beside the text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


Pattern = Annotated[str, Meta(min_length=1)]
Choices = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, max_length=10_000)]


class JsonSchemaFormat(Struct, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's wrapping of a schema. It is enforced whatever `strict` says."""

    schema: dict[str, Any]
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Struct, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's field."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(Struct, kw_only=True, forbid_unknown_fields=True):
    """vLLM's field: one of the first five."""

    json: str | dict[str, Any] | None = None
    regex: Pattern | None = None
    choice: Choices | None = None
    grammar: Pattern | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool | None = None


class GenerationRequest(Struct, kw_only=True):
    """What both ways of generating text have in common. Names beyond OpenAI's are vLLM's."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=INT32)] | None = None
    min_p: Probability | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    logit_bias: LogitBias | None = None
    seed: int | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=16)] | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=128)] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=INT32)] | None = None
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    prompt_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    priority: Annotated[int, Meta(ge=-INT32, le=INT32)] | None = None
    speculation: Literal["off", "ngram", "draft"] | None = None
    cache_salt: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: Pattern | None = None
    guided_choice: Choices | None = None
    guided_grammar: Pattern | None = None


class ContentPart(Struct, kw_only=True):
    """One part of a message's content; another type than text gets an error that says so, hence no Literal."""

    type: Annotated[str, Meta(extra_json_schema={"enum": ["text"]})]
    text: str | None = None


class FunctionCall(Struct, kw_only=True):
    """A call that the assistant made earlier in the conversation."""

    name: str
    arguments: str | dict[str, Any] = ""


class ToolCall(Struct, kw_only=True):
    """An assistant's tool call, as the conversation so far contains it."""

    function: FunctionCall
    id: str | None = None
    type: Literal["function"] = "function"


class Message(Struct, kw_only=True):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    function_call: dict[str, Any] | None = None
    audio: dict[str, Any] | None = None


# What OpenAI allows, and the separators that tool servers put into names.
FunctionName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]


class FunctionDefinition(Struct, kw_only=True, omit_defaults=True):
    """A function that the model may call; `parameters` is the JSON schema of its arguments, an object."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct, kw_only=True):
    """A tool; another type than function gets an error that says so, hence no Literal."""

    type: Annotated[str, Meta(extra_json_schema={"enum": ["function"]})]
    function: FunctionDefinition | None = None


class NamedFunction(Struct, kw_only=True):
    """One of the functions, by its name."""

    name: str


class NamedTool(Struct, kw_only=True):
    """One of the tools."""

    function: NamedFunction
    type: Literal["function"] = "function"


class AllowedTools(Struct, kw_only=True):
    """Some of the tools: those that may be called, or one of which must be."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Meta(min_length=1)]


class ToolChoice(Struct, kw_only=True):
    """The function to call, or the tools to choose from."""

    type: Literal["function", "allowed_tools"] = "function"
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None


class ChatDocument(Struct, kw_only=True):
    """A text that an ensemble may choose to answer from."""

    text: str
    title: str | None = None


Documents = Annotated[list[str | ChatDocument], Meta(max_length=2048)]


class ChatRequest(GenerationRequest, kw_only=True):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_tokens: Annotated[int, Meta(ge=1, le=INT32)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, le=INT32)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: Annotated[list[Tool], Meta(max_length=512)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    include_reasoning: bool | None = None
    reasoning_effort: str | None = None
    thinking_token_budget: Annotated[int, Meta(ge=-1, le=INT32)] | None = None
    documents: Documents | None = None


# One text or several, one list of token ids or several. A union of array types has to be told apart afterwards.
Prompt = str | list[str | int | list[int]]


class CompletionRequest(GenerationRequest, kw_only=True):
    """Body of POST /v1/completions."""

    prompt: Prompt
    max_tokens: Annotated[int, Meta(ge=0, le=INT32)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None


class LoadAdapterRequest(Struct, kw_only=True):
    """Body of POST /v1/load_lora_adapter."""

    lora_name: Annotated[str, Meta(min_length=1, max_length=256)]
    lora_path: Annotated[str, Meta(min_length=1, max_length=4096)]
    base_model_name: str | None = None


class UnloadAdapterRequest(Struct, kw_only=True):
    """Body of POST /v1/unload_lora_adapter."""

    lora_name: Annotated[str, Meta(min_length=1, max_length=256)]


class TokenizeRequest(Struct, kw_only=True):
    """Body of POST /tokenize: a prompt or messages, one of them."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Meta(min_length=1)] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: Annotated[list[Tool], Meta(max_length=512)] | None = None


class DetokenizeRequest(Struct, kw_only=True):
    """Body of POST /detokenize."""

    tokens: list[int]
    model: str | None = None
