"""A request of the Messages API as the request of /v1/chat/completions that asks for the same."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.core.errors import InvalidRequestError
from penstock.server.conversing import renamed
from penstock.server.requests import ChatRequest

if TYPE_CHECKING:
    from penstock.server.messages_api.requests import AnthropicMessage, AnthropicTool, Block, CountRequest

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def chat_request(request: CountRequest) -> ChatRequest:
    """The conversation, tools and limits. Raises InvalidRequestError naming the field at fault."""
    turns: list[dict[str, Any]] = []
    if request.system:
        turns.append({"role": "system", "content": _system(request.system)})
    for index, message in enumerate(request.messages):
        turns += _turns(message, f"messages[{index}].content")
    fields: dict[str, Any] = {"model": request.model, "messages": turns}
    if turns[-1]["role"] == "assistant":
        if "tool_calls" in turns[-1]:
            raise InvalidRequestError(
                "The conversation ends with a tool call; its tool_result must follow.",
                param=f"messages[{len(request.messages) - 1}]",
                code="invalid_value",
            )
        fields |= {"continue_final_message": True, "add_generation_prompt": False}
    fields |= _tools(request) | _thinking(request)
    if request.output_config is not None and request.output_config.format is not None:
        schema = {"name": "answer", "schema": request.output_config.format.schema, "strict": True}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    if request.output_config is not None and request.output_config.effort is not None:
        fields["reasoning_effort"] = request.output_config.effort
    for name, field in _SAME.items():
        value = getattr(request, name, None)
        if value is not None:
            fields[field] = value
    try:
        return msgspec.convert(fields, ChatRequest)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"The request is not valid: {error}.", code="invalid_value") from error


_SAME = {
    "max_tokens": "max_tokens",
    "stop_sequences": "stop",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "priority": "priority",
    "cache_salt": "cache_salt",
    "documents": "documents",
}


def in_own_words(error: InvalidRequestError) -> InvalidRequestError:
    """The same error, naming the field of the Messages API instead of the one it became."""
    found = _IN_TOOLS.match(error.param or "")
    if found is not None:
        own = found.group(1) + (".input_schema" if found.group(2) == ".parameters" else found.group(2) or "")
        return renamed(error, ((found.group(), own),))
    return renamed(error, _OWN_NAMES)


_OWN_NAMES = (
    ("response_format.json_schema", "output_config.format"),
    ("response_format", "output_config.format"),
    ("reasoning_effort", "output_config.effort"),
    ("thinking_token_budget", "thinking.budget_tokens"),
    ("stop", "stop_sequences"),
)
_IN_TOOLS = re.compile(r"^(tools\[\d+\]|tool_choice)\.function(\.parameters|\.\w+)?")


def _system(system: str | list[Block]) -> str:
    if isinstance(system, str):
        return system
    return "\n".join(_text(block, f"system[{index}]") for index, block in enumerate(system))


def _turns(message: AnthropicMessage, place: str) -> list[dict[str, Any]]:
    """One turn as chat messages: a tool's result is a message of its own there."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    blocks = [(block, f"{place}[{index}]") for index, block in enumerate(message.content)]
    for block, where in blocks:
        if block.type not in _BLOCKS[message.role]:
            known = ", ".join(_BLOCKS[message.role])
            raise InvalidRequestError(
                f"'{where}' is of type {block.type[:64]!r}; this model takes {known} from the {message.role}.",
                param=f"{where}.type",
                code="unsupported_content",
            )
    return _user(blocks) if message.role == "user" else [_assistant(blocks)]


_BLOCKS = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "tool_use", "thinking", "redacted_thinking"),
}


def _user(blocks: list[tuple[Block, str]]) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    texts: list[str] = []
    for block, where in blocks:
        if block.type == "tool_result":
            call = _given(block.tool_use_id, f"{where}.tool_use_id")
            turns.append({"role": "tool", "tool_call_id": call, "content": _result(block, where)})
        else:
            texts.append(_text(block, where))
    if texts or not turns:
        turns.append({"role": "user", "content": "\n".join(texts)})
    return turns


def _assistant(blocks: list[tuple[Block, str]]) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": "assistant"}
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for block, where in blocks:
        match block.type:
            case "thinking":
                thoughts.append(_given(block.thinking, f"{where}.thinking"))
            case "tool_use":
                name = _given(block.name, f"{where}.name")
                function = {"name": name, "arguments": block.input or {}}
                calls.append({"id": _given(block.id, f"{where}.id"), "type": "function", "function": function})
            case "text":
                texts.append(_text(block, where))
    if texts or not calls:
        turn["content"] = "".join(texts)
    if thoughts:
        turn["reasoning_content"] = "\n".join(thoughts)
    if calls:
        turn["tool_calls"] = calls
    return turn


def _text(block: Block, where: str) -> str:
    if block.type != "text":
        raise InvalidRequestError(
            f"'{where}' is of type {block.type[:64]!r}; only text can stand here.",
            param=f"{where}.type",
            code="unsupported_content",
        )
    return _given(block.text, f"{where}.text")


def _result(block: Block, where: str) -> str:
    content = block.content
    if content is None or isinstance(content, str):
        text = content or ""
    else:
        texts = []
        for index, part in enumerate(content):
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise InvalidRequestError(
                    f"'{where}.content[{index}]' is not a text block; this model takes text only.",
                    param=f"{where}.content[{index}].type",
                    code="unsupported_content",
                )
            texts.append(part["text"])
        text = "\n".join(texts)
    return f"Error: {text}" if block.is_error else text


def _given(value: str | None, where: str) -> str:
    if value is None:
        raise InvalidRequestError(f"'{where}' is missing.", param=where, code="missing_field")
    return value


def _tools(request: CountRequest) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if request.tools:
        fields["tools"] = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(request.tools)]
    choice = request.tool_choice
    if choice is None:
        return fields
    if choice.type == "tool":
        function = {"name": _given(choice.name, "tool_choice.name")}
        fields["tool_choice"] = {"type": "function", "function": function}
    else:
        fields["tool_choice"] = _CHOICES[choice.type]
    if choice.disable_parallel_tool_use:
        fields["parallel_tool_calls"] = False
    return fields


def _tool(tool: AnthropicTool, where: str) -> dict[str, Any]:
    if tool.type not in (None, "custom"):
        raise InvalidRequestError(
            f"'{where}' is of type {tool.type[:64]!r}; tools are the client's own here, of type 'custom'.",
            param=f"{where}.type",
            code="unsupported_parameter",
        )
    if tool.input_schema is None:
        raise InvalidRequestError(
            f"'{where}.input_schema' is missing.", param=f"{where}.input_schema", code="missing_field"
        )
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _thinking(request: CountRequest) -> dict[str, Any]:
    thinking = request.thinking
    variables = dict(request.chat_template_kwargs or {})
    if thinking is None or thinking.type == "adaptive":
        return {"chat_template_kwargs": variables} if variables else {}
    switch = thinking.type == "enabled"
    if variables.setdefault("enable_thinking", switch) is not switch:
        raise InvalidRequestError(
            f"'thinking' is {thinking.type}, and 'chat_template_kwargs.enable_thinking' says otherwise.",
            param="chat_template_kwargs.enable_thinking",
            code="invalid_value",
        )
    fields: dict[str, Any] = {"chat_template_kwargs": variables}
    if thinking.type == "enabled" and thinking.budget_tokens is not None:
        fields["thinking_token_budget"] = thinking.budget_tokens
    return fields
