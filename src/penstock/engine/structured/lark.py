"""Grammars as text: the parts that a request's grammar is put together from, in llguidance's dialect of Lark.

>>> grammar(f"{literal('Answer: ')} ({any_of(['yes', 'no'])})")
'start: "Answer: " ("yes" | "no")'

Each function but `grammar` gives an expression, to be used wherever a rule's right side may have one.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SCHEMA = re.compile(r"%json\s*(?=\{)")
_LONGEST_EBNF = 50_000  # converting takes some seconds for ten times as much


def grammar(start: str, rules: Mapping[str, str] | None = None) -> str:
    """A whole grammar: what a text must match, and the rules that `start` and each other mention by name.

    A name in lower case is a rule; one in upper case is a terminal, which may not refer to rules.
    """
    return "\n".join([f"start: {start}", *(f"{name}: {body}" for name, body in (rules or {}).items())])


def literal(text: str) -> str:
    """Exactly `text`, which is not empty; no special token, even if one is spelt like it."""
    return json.dumps(text)


def special(token: str) -> str:
    """The special token spelt `token`, as in "<|im_start|>"; other names than those in angle brackets need its id."""
    return token if token.startswith("<") and token.endswith(">") else literal(token)


def special_id(token_id: int) -> str:
    """The token of this id, whatever it is spelt like."""
    return f"<[{token_id}]>"


def any_of(texts: Iterable[str]) -> str:
    """One of some texts; put it into parentheses beside anything else."""
    return " | ".join(map(literal, texts))


def regex(pattern: str) -> str:
    """A text that `pattern` matches from its beginning to its end.

    The syntax is that of Rust's `regex` without what needs to look around or back.
    """
    escaped, skip = [], False
    for character in pattern:
        if character == "\n":
            escaped.append("n" if skip else "\\n")
        elif character == "/" and not skip:
            escaped.append("\\/")
        else:
            escaped.append(character)
        skip = character == "\\" and not skip
    return f"/{''.join(escaped)}/"


def json_value(schema: Mapping[str, Any]) -> str:
    """JSON text of a value that satisfies `schema`, which `schemas.prepare` has prepared."""
    return f"%json {json.dumps(schema)}"


def from_ebnf(text: str, *, field: str = "grammar") -> str:
    """A grammar in Lark or, where rules are written with `::=`, in the GBNF of llama.cpp, as Lark that can be enforced.

    Raises ValueError if it can't be read, InvalidRequestError naming what of a JSON schema in it can't be enforced.
    """
    if len(text) > _LONGEST_EBNF:
        raise ValueError(f"it is longer than {_LONGEST_EBNF} characters")
    if text.lstrip()[:1] == "{":
        raise ValueError("it is JSON; rules are written in Lark or GBNF")
    if "::=" not in text:
        return _with_exact_schemas(text, field)
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        converted = str(gbnf_to_lark(text))
    except Exception as error:  # it has no class of errors of its own, and recurses
        raise ValueError(str(error)) from error
    return _with_exact_schemas(converted, field)


def _with_exact_schemas(text: str, field: str) -> str:
    """The same with each schema prepared. One that only seems to be, within a literal, is taken for one too."""
    from penstock.engine.structured.schemas import prepare

    decoder = json.JSONDecoder()
    parts: list[str] = []
    at = 0
    for found in _SCHEMA.finditer(text):
        if found.start() < at:
            continue
        try:
            schema, end = decoder.raw_decode(text, found.end())
        except RecursionError as error:
            raise ValueError("a schema in it is nested too deeply") from error
        parts += text[at : found.start()], json_value(prepare(schema, field=f"{field}.%json"))
        at = end
    return "".join(parts) + text[at:]
