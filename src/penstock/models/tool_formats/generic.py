"""For models whose template knows nothing of tools, or writes calls in a way that isn't known here.

Tools are described in the system message, in the words and tags that most open models have seen somewhere in their
training (those of `hermes`); calls and results of earlier turns are written into assistant and user messages. Whether
the model makes sensible use of tools is up to the model; that a call is well-formed is up to the grammar.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from penstock.models.tool_formats import hermes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from penstock.models.tool_formats.base import ToolFormat

GENERIC = replace(hermes.DEFAULT, family="generic", in_messages=True)

_INTRODUCTION = """\
You can call functions. Each is described by a JSON schema:
<tools>
{tools}
</tools>
To call one, answer with its name and arguments as JSON{in_tags}, and nothing after it:
{example}
The result comes back in <tool_response> tags. If no function helps, answer in plain text."""


def into_messages(
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]] | None,
    *,
    system_role: bool,
    spelling: ToolFormat = GENERIC,
) -> list[dict[str, Any]]:
    """The same conversation for a template without tools.

    Args:
        messages: in OpenAI's form, a call's arguments as an object.
        tools: in OpenAI's form; None where none may be called.
        system_role: the template takes a system message; otherwise the first user message begins with it.
        spelling: how calls are written.
    """
    written: list[dict[str, Any]] = []
    before = ""
    for message in messages:
        if message["role"] == "tool":
            result = f"<tool_response>\n{_text(message['content'])}\n</tool_response>"
            if before == "tool":  # one turn's results are one message, since many templates want turns to be taken
                written[-1]["content"] += "\n" + result
            else:
                written.append({"role": "user", "content": result})
        elif message.get("tool_calls"):
            plain = {name: value for name, value in message.items() if name != "tool_calls"}
            said = _text(message["content"])
            calls = spelling.write([_name_and_arguments(call) for call in message["tool_calls"]])
            written.append({**plain, "content": f"{said}\n{calls}" if said else calls})
        else:
            written.append(dict(message))
        before = message["role"]
    if tools:
        described = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        name = "<function name>"
        example = spelling.write([(name, "<arguments object>")]).replace(f'"{name}"', name)
        introduction = _INTRODUCTION.format(
            tools=described, example=example, in_tags=" in tags" if spelling.begin.startswith("<") else ""
        )
        _introduce(written, introduction, "system" if system_role else "user")
    return written


def _introduce(messages: list[dict[str, Any]], text: str, role: str) -> None:
    first = next((message for message in messages if message["role"] == role), None)
    if first is None:
        messages.insert(0, {"role": role, "content": text})
    elif role == "system":
        first["content"] = f"{_text(first['content'])}\n\n{text}"
    else:
        first["content"] = f"{text}\n\n{_text(first['content'])}"


def _name_and_arguments(call: dict[str, Any]) -> tuple[str, str]:
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    return name, arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _text(content: str | Iterable[dict[str, str]]) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)
