"""A request of the Responses API as the request of /v1/chat/completions that asks for the same."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from penstock.core.errors import InvalidRequestError
from penstock.server.conversing import renamed
from penstock.server.requests import ChatRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.server.responses_api.requests import (
        InputItem,
        InputPart,
        ResponseRequest,
        ResponseTool,
        ResponseToolChoice,
        TextFormat,
    )


LOGPROBS = "message.output_text.logprobs"

_RENAMED = {"max_output_tokens": "max_tokens"}
_SAME = (
    *("model", "parallel_tool_calls", "temperature", "top_p", "top_k", "min_p", "presence_penalty"),
    *("frequency_penalty", "repetition_penalty", "logit_bias", "seed", "stop", "stop_token_ids"),
    *("include_stop_str_in_output", "ignore_eos", "skip_special_tokens", "structured_outputs", "priority"),
    *("cache_salt", "chat_template_kwargs", "documents"),
)
_OWN_NAMES = (
    ("messages", "input"),
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("reasoning_effort", "reasoning.effort"),
    ("max_tokens", "max_output_tokens"),
)
_IN_TOOLS = re.compile(r"^(tools\[\d+\]|tool_choice)\.function")


def chat_request(request: ResponseRequest, history: Iterable[tuple[str, InputItem]]) -> ChatRequest:
    """The conversation, tools and limits.

    Args:
        request: what is asked now.
        history: items of earlier responses and this one's, each with the place that errors call it by.

    Raises InvalidRequestError naming the field at fault.
    """
    turns = Turns()
    if request.instructions is not None:
        turns.add_message("system", request.instructions)
    for place, item in history:
        turns.add(item, place)
    fields: dict[str, Any] = {"messages": turns.finish()}
    taken = {**{name: name for name in _SAME}, **_RENAMED}
    fields |= {field: value for name, field in taken.items() if (value := getattr(request, name)) is not None}
    if LOGPROBS in (request.include or ()) or request.top_logprobs is not None:
        fields |= {"logprobs": True, "top_logprobs": request.top_logprobs or 0}
    if request.tools:
        fields["tools"] = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(request.tools)]
    if request.tool_choice is not None:
        choice = request.tool_choice
        fields["tool_choice"] = choice if isinstance(choice, str) else _choice(choice)
    if request.text is not None and request.text.format is not None:
        fields["response_format"] = _format(request.text.format)
    if request.reasoning is not None and request.reasoning.effort is not None:
        fields["reasoning_effort"] = request.reasoning.effort
    try:
        return msgspec.convert(fields, ChatRequest)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"The request is not valid: {error}.", code="invalid_value") from error


def in_own_words(error: InvalidRequestError) -> InvalidRequestError:
    """The same error, naming the field of the Responses API instead of the one it became."""
    found = _IN_TOOLS.match(error.param or "")
    return renamed(error, ((found.group(), found.group(1)),) if found else _OWN_NAMES)


class Turns:
    """Chat messages, as items come: what an assistant thinks, says and calls in a row is one message."""

    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []
        self._assistant: dict[str, Any] | None = None

    def add_message(self, role: str, text: str) -> None:
        """A message of somebody else."""
        self._assistant = None
        self._messages.append({"role": role, "content": text})

    def add(self, item: InputItem, place: str) -> None:
        """One item. Raises InvalidRequestError for what can't be read."""
        match item.type:
            case "message":
                self._add_message(item, place)
            case "function_call":
                function = {"name": _given(item.name, place, "name"), "arguments": item.arguments or "{}"}
                call = {"id": _given(item.call_id, place, "call_id"), "type": "function", "function": function}
                self._answer().setdefault("tool_calls", []).append(call)
            case "function_call_output":
                self._assistant = None
                output: str | list[InputPart] = _given(item.output, place, "output")
                text = _texts(output, f"{place}.output", _SPOKEN)
                call_id = _given(item.call_id, place, "call_id")
                self._messages.append({"role": "tool", "tool_call_id": call_id, "content": text})
            case "reasoning":
                content = item.content or item.summary or []
                text = _texts(content, f"{place}.content", ("reasoning_text", "summary_text"))
                if text:
                    answer = self._answer()
                    answer["reasoning_content"] = answer.get("reasoning_content", "") + text
            case _:
                raise InvalidRequestError(
                    f"'{place}' is of type {item.type[:64]!r}; there are messages, function calls with their outputs, "
                    "and reasoning here.",
                    param=f"{place}.type",
                    code="unsupported_content",
                )

    def finish(self) -> list[dict[str, Any]]:
        """All messages."""
        for message in self._messages:
            if message["role"] == "assistant" and "tool_calls" not in message:
                message.setdefault("content", "")
        return self._messages

    def _add_message(self, item: InputItem, place: str) -> None:
        role = _given(item.role, place, "role")
        content: str | list[InputPart] = _given(item.content, place, "content")
        text = _texts(content, f"{place}.content", _SPOKEN)
        if role != "assistant":
            self.add_message(role, text)
            return
        if self._assistant is not None and "content" in self._assistant:
            self._assistant = None  # two messages in a row stay two
        self._answer()["content"] = text

    def _answer(self) -> dict[str, Any]:
        if self._assistant is None:
            self._assistant = {"role": "assistant"}
            self._messages.append(self._assistant)
        return self._assistant


_SPOKEN = ("input_text", "output_text", "text", "refusal")


def _texts(content: str | list[InputPart], place: str, types: tuple[str, ...]) -> str:
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for index, part in enumerate(content):
        if part.type not in types:
            raise InvalidRequestError(
                f"'{place}[{index}]' is of type {part.type[:64]!r}; this model takes text only.",
                param=f"{place}[{index}].type",
                code="unsupported_content",
            )
        field = "refusal" if part.type == "refusal" else "text"
        texts.append(_given(getattr(part, field), f"{place}[{index}]", field))
    return "\n".join(texts)


def _given(value: Any, place: str, name: str) -> Any:
    if value is None or value is UNSET:
        raise InvalidRequestError(f"'{place}.{name}' is missing.", param=f"{place}.{name}", code="missing_field")
    return value


def _tool(tool: ResponseTool, place: str) -> dict[str, Any]:
    if tool.type != "function":
        raise InvalidRequestError(
            f"'{place}' is of type {tool.type[:64]!r}; only functions of the client's own can be called here.",
            param=f"{place}.type",
            code="unsupported_parameter",
        )
    function: dict[str, Any] = {"name": _given(tool.name, place, "name")}
    for name in ("description", "parameters", "strict"):
        value = getattr(tool, name)
        if value is not None and value is not UNSET:
            function[name] = value
    return {"type": "function", "function": function}


def _choice(choice: ResponseToolChoice) -> dict[str, Any]:
    if choice.type == "function":
        return {"type": "function", "function": {"name": _given(choice.name, "tool_choice", "name")}}
    allowed = []
    for index, tool in enumerate(_given(choice.tools, "tool_choice", "tools")):
        name = tool.get("name") if tool.get("type") == "function" else None
        if not isinstance(name, str):
            place = f"tool_choice.tools[{index}]"
            raise InvalidRequestError(f"'{place}' is not a function with a name.", param=place, code="invalid_value")
        allowed.append({"type": "function", "function": {"name": name}})
    mode = _given(choice.mode, "tool_choice", "mode")
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": allowed}}


def _format(wanted: TextFormat) -> dict[str, Any]:
    if wanted.type != "json_schema":
        return {"type": wanted.type}
    schema: dict[str, Any] = {
        "name": _given(wanted.name, "text.format", "name"),
        "schema": _given(wanted.schema, "text.format", "schema"),
    }
    for name in ("description", "strict"):
        value = getattr(wanted, name)
        if value is not None and value is not UNSET:
            schema[name] = value
    return {"type": "json_schema", "json_schema": schema}
