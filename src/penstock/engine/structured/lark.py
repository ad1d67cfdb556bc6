"""Grammars as text: the parts that a request's grammar is put together from, in llguidance's dialect of Lark.

>>> grammar(f"{literal('Answer: ')} ({any_of(['yes', 'no'])})")
'start: "Answer: " ("yes" | "no")'

Each function but `grammar` gives an expression, to be used wherever a rule's right side may have one.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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


def from_ebnf(text: str) -> str:
    """A grammar in Lark or, where rules are written with `::=`, in the GBNF of llama.cpp, as Lark.

    Raises ValueError if it is GBNF that can't be read.
    """
    if "::=" not in text:
        return text
    from llguidance.gbnf_to_lark import gbnf_to_lark

    if len(text) > _LONGEST_EBNF:
        raise ValueError(f"it is longer than {_LONGEST_EBNF} characters")
    try:
        return str(gbnf_to_lark(text))
    except Exception as error:  # it has no class of errors of its own, and recurses
        raise ValueError(str(error)) from error
