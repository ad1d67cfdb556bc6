"""One grammar for a whole answer: thinking, then text, tool calls or a structure, in llguidance's dialect of Lark.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.models.thinking import ThinkingTags
    from penstock.models.tool_formats.base import ToolFormat


@dataclass(frozen=True, slots=True)
class Function:
    """What may be called: its name and the JSON schema of its arguments, an object's; `x-guidance` in it holds options
    of llguidance's."""

    name: str
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolRules:
    """How an answer may call.

    Args:
        spelling: the model's way of writing calls.
        functions: those that may be called, at least one.
        required: the answer is calls and nothing else; otherwise it is text until a call begins.
        several: more than one call.
    """

    spelling: ToolFormat
    functions: Sequence[Function]
    required: bool
    several: bool


@dataclass(frozen=True, slots=True)
class ThinkingRules:
    """How an answer may think first: it must finish where the prompt has `begun` the thinking, else it may begin."""

    tags: ThinkingTags
    begun: bool


def answer_grammar(
    special_tokens: Mapping[str, int],
    *,
    tools: ToolRules | None = None,
    structure: str | None = None,
    thinking: ThinkingRules | None = None,
) -> str | None:
    """The grammar, None where anything may be said.

    Args:
        special_tokens: ids of the control tokens, by text; in a grammar they are no text.
        tools: None if nothing may be called.
        structure: a Lark grammar that the answer has to fit unless it calls.
        thinking: None where the answer begins at once.
    """
    if tools is None and structure is None:
        return None
    return _Composer(special_tokens, thinking).compose(tools, structure)


class _Composer:
    """Collects rules by name; text rules come in two kinds where thinking may come first but need not."""

    def __init__(self, special_tokens: Mapping[str, int], thinking: ThinkingRules | None) -> None:
        self._special = special_tokens
        self._thinking = thinking
        markers = sorted(special_tokens, key=len, reverse=True)
        self._markers = re.compile("|".join(map(re.escape, markers))) if markers else None
        self._rules: dict[str, str] = {"TEXT": "/(?s:.*)/"}

    def compose(self, tools: ToolRules | None, structure: str | None) -> str:
        if structure is not None:
            self._rules["structure"] = "%lark {\n" + structure + "\n}"
        if tools is not None:
            self._add_calls(tools)
        self._add_start(tools, structure)
        return "%llguidance {}\n" + "\n".join(f"{name}: {body}" for name, body in self._rules.items()) + "\n"

    def _add_start(self, tools: ToolRules | None, structure: str | None) -> None:
        bound = tools is None or tools.required or structure is not None or not tools.spelling.anywhere
        write = partial(self._bound_answer if bound else self._free_answer, tools, structure)
        answer = write("TEXT")
        if self._thinking is None:
            self._rules["start"] = answer
            return
        tags = self._thinking.tags
        self._rules["GAP"] = r"/\n{0,4}/"  # what models write after their thinking; text that is free has it anyway
        ending = self._literal(tags.end)
        if tags.end in self._special:
            self._rules["thoughts"] = f"TEXT {ending}"
        else:
            self._rules["thoughts[lazy]"] = f"TEXT {ending}"
        after = f"thoughts GAP ({answer})" if bound else f"thoughts ({answer})"
        if self._thinking.begun:
            self._rules["start"] = after
            return
        if tags.begin not in self._special:  # the lexer is greedy: text must not begin like thinking
            self._rules["UNTHOUGHT"] = rf"TEXT & ~/\s*{_escaped(tags.begin)}(?s:.*)/"
            answer = write("UNTHOUGHT")
        self._rules["start"] = f"{self._literal(tags.begin)} {after} | {answer}"

    def _bound_answer(self, tools: ToolRules | None, structure: str | None, text: str) -> str:
        """An answer whose first character tells what it is."""
        options = [] if tools is None else [f"{self._literal(tools.spelling.begin)} calls".strip()]
        if structure is not None:
            options.append("structure")
        elif tools is not None and not tools.required:
            first = _escaped(tools.spelling.head("")[:1])
            self._rules[f"{text}_ONLY"] = rf"{text} & /(?s:[^{first}\n].*)?/"
            options.append(f"{text}_ONLY")
        return " | ".join(options)

    def _free_answer(self, tools: ToolRules | None, _structure: str | None, text: str) -> str:
        """Text, in which a call may begin anywhere."""
        assert tools is not None  # otherwise there is a structure
        begin, trigger = tools.spelling.begin, tools.spelling.trigger
        if self._markers is not None and self._markers.match(trigger):
            return f"{text} | {text} {self._literal(begin)} calls"
        rule = f"{text.lower()}_then_call"
        self._rules[f"{rule}[lazy]"] = f"{text} {self._literal(trigger)}"
        return f"{text} | {rule} {self._literal(begin[len(trigger) :])} calls"

    def _add_calls(self, tools: ToolRules) -> None:
        spelling = tools.spelling
        spaces = {
            "whitespace_flexible": False,
            "item_separator": spelling.item_separator,
            "key_separator": spelling.key_separator,
        }
        for index, function in enumerate(tools.functions):
            style = {**function.schema.get("x-guidance", {}), **spaces}
            schema = json.dumps({**function.schema, "x-guidance": style}, ensure_ascii=False)
            self._rules[f"function_{index}"] = f"{self._literal(spelling.head(function.name))} %json {schema}"
        options = " | ".join(f"function_{index}" for index in range(len(tools.functions)))
        self._rules["call"] = f"({options}) {self._literal(spelling.call_close)}"
        more = f" ({self._literal(spelling.between)} call)*" if tools.several else ""
        self._rules["calls"] = f"call{more} {self._literal(spelling.end)}"

    def _literal(self, text: str) -> str:
        """A fixed string as grammar symbols; control tokens in it are named by their ids."""
        symbols, at = [], 0
        for marker in self._markers.finditer(text) if self._markers else ():
            symbols += [json.dumps(text[at : marker.start()]), f"<[{self._special[marker[0]]}]>"]
            at = marker.end()
        symbols.append(json.dumps(text[at:]))
        return " ".join(symbol for symbol in symbols if symbol != '""')


def _escaped(text: str) -> str:
    """A string as part of a regular expression between slashes."""
    return re.sub(r"([^A-Za-z0-9_<> ])", r"\\\1", text)
