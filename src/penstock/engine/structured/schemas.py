"""JSON schemas as grammars can enforce them: what can't be enforced is refused by name, the rest is made exact.

llguidance compiles most of JSON Schema (https://json-schema.org/draft/2020-12). What it would not hold to the letter
is settled here before it sees the schema:

- a member's name has one spelling: `\\u0061` for `a` could pass for another member, so there are no such escapes;
- a name could come twice among those that no schema names, so `minProperties` is taken only where it can't be met so;
- `number` gets bounds and so no exponent: 1e999 would be one too, and most who read JSON can't take it; all bounds of
  numbers are moved to where they are exact (`engine/structured/numbers.py`);
- a control character could only be written as `\\u` escape, so no name and value may have one;
- a name for a part of the schema leads to one place only, so that what it says is seen here;
- `pattern` and some formats are rewritten (`engine/structured/patterns.py`);
- white space is a space or a line's end with an indentation, since a model may add to it for ever.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from penstock.core.errors import InvalidRequestError
from penstock.engine.structured.finite import endless
from penstock.engine.structured.numbers import LARGEST_INTEGER, BoundError, bound, check_multiples
from penstock.engine.structured.patterns import EXACT_FORMATS, FORMATS, rewrite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CODE = "unsupported_schema"
_MAX_DEPTH = 100
_MAX_PARTS = 30_000
_CONTROL = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")  # those without an escape of one letter
_ESCAPES = '"\\bfnrt'
_WHITE_SPACE = "[ ]|\\n([ ]{0,16}|\\t{0,8})"  # between words, or a new line and what it is indented by

# Keywords that hold schemas: by name, in order, alone.
_MAPS = ("properties", "patternProperties")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "additionalItems")
_TYPES = ("null", "boolean", "object", "array", "number", "integer", "string")


def _never(_value: object, _schema: dict[str, Any]) -> bool:
    return False


def _is_empty(value: object, _schema: dict[str, Any]) -> bool:
    return value in (True, {})


# Keywords that no grammar here enforces, and when one asks for nothing.
_UNENFORCED: dict[str, Callable[[object, dict[str, Any]], bool]] = {
    "$dynamicRef": _never,
    "$recursiveRef": _never,
    "contains": _never,
    "minContains": lambda _, schema: "contains" not in schema,
    "maxContains": lambda _, schema: "contains" not in schema,
    "uniqueItems": lambda value, _: value is False,
    "unevaluatedItems": _is_empty,
    "unevaluatedProperties": _is_empty,
    "propertyNames": _is_empty,
    "dependentRequired": _is_empty,
    "dependentSchemas": _is_empty,
    "dependencies": _is_empty,
    "if": lambda _, schema: "then" not in schema and "else" not in schema,
    "then": lambda _, schema: "if" not in schema,
    "else": lambda _, schema: "if" not in schema,
    "not": lambda value, _: value is False,
    "x-guidance": _never,
}


class UnenforceableError(InvalidRequestError):
    """A keyword that no grammar enforces."""

    def __init__(self, place: str, keyword: str, why: str) -> None:
        param = f"{place}.{keyword}"[:300]
        super().__init__(f"'{keyword}' {why} (at {place[:300]}).", param=param, code=CODE)
        self.keyword = keyword


def prepare(schema: object, *, field: str, compact: bool = False, dropped: list[str] | None = None) -> dict[str, Any]:
    """A schema for `lark.json_value` that no text satisfies but what satisfies `schema`, which is left alone.

    Args:
        schema: a JSON schema, decoded.
        field: the request field that it stands in, for errors.
        compact: allow no white space between tokens.
        dropped: given a list, keywords that can't be enforced are left out, and their places added to it.

    Raises InvalidRequestError naming the place of what is wrong, UnenforceableError of what can't be enforced.
    """
    copied = _copy(schema, field)
    if copied is True:
        copied = {}
    if not isinstance(copied, dict):
        raise InvalidRequestError(
            f"'{field}' must be a JSON schema: an object, or true.", param=field, code="invalid_value"
        )
    parts = list(islice(_reachable(copied, field), _MAX_PARTS + 1))
    if len(parts) > _MAX_PARTS:
        raise InvalidRequestError(
            f"'{field}' consists of more than {_MAX_PARTS} schemas.", param=field, code="invalid_value"
        )
    place_of_endless = endless(parts, lambda reference: _at(copied, reference))
    if place_of_endless is not None:
        raise InvalidRequestError(
            f"'{place_of_endless[:300]}' needs a value of its own kind within each value, so that none would ever end.",
            param=field,
            code="invalid_value",
        )
    for place, node in parts:
        if dropped is None:
            _settle(node, place)
        else:
            _settle_loosely(node, place, dropped)
    _settle_multiples(copied, field, dropped)
    copied["x-guidance"] = {"json_allowed_escapes": _ESCAPES} | (
        {"whitespace_flexible": False} if compact else {"whitespace_pattern": _WHITE_SPACE}
    )
    return copied


def _copy(value: object, field: str, depth: int = 0) -> Any:
    if depth > _MAX_DEPTH:
        raise InvalidRequestError(
            f"'{field}' is nested more than {_MAX_DEPTH} deep.", param=field, code="invalid_value"
        )
    if isinstance(value, dict):
        return {name: _copy(inner, field, depth + 1) for name, inner in value.items()}
    if isinstance(value, list):
        return [_copy(inner, field, depth + 1) for inner in value]
    return value


def _reachable(root: dict[str, Any], field: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema that a text may be held to, once, and where it stands."""
    seen: set[int] = set()
    open_ = [(field, root)]
    anchored: dict[str, list[tuple[str, Any]]] | None = None  # once: a client may send a great many references
    while open_:
        place, node = open_.pop()
        if not isinstance(node, dict) or id(node) in seen:
            continue
        seen.add(id(node))
        yield place, node
        open_ += _inner(node, place)
        reference = node.get("$ref")
        if isinstance(reference, str):
            found = _at(root, reference)
            if found is not None:
                open_.append((f"{field}{reference.removeprefix('#').replace('/', '.')}", found))
            else:
                if anchored is None:
                    anchored = _anchored(root, field)
                open_ += anchored.get(reference, ())


def _inner(node: dict[str, Any], place: str) -> Iterator[tuple[str, Any]]:
    for keyword in _MAPS:
        held = node.get(keyword)
        if isinstance(held, dict):
            yield from ((f"{place}.{keyword}.{name}", inner) for name, inner in held.items())
    for keyword in (*_LISTS, *_SINGLE):
        held = node.get(keyword)
        if isinstance(held, list):
            yield from ((f"{place}.{keyword}[{at}]", inner) for at, inner in enumerate(held))
        elif isinstance(held, dict):
            yield f"{place}.{keyword}", held


def _anchored(root: dict[str, Any], field: str) -> dict[str, list[tuple[str, Any]]]:
    """Schemas that can be referred to by another name than their place, wherever one may look for them."""
    found: dict[str, list[tuple[str, Any]]] = {}
    open_: list[tuple[str, Any]] = [(field, root)]
    while open_:
        place, value = open_.pop()
        if isinstance(value, list):
            open_ += ((f"{place}[{at}]", inner) for at, inner in enumerate(value))
        elif isinstance(value, dict):
            open_ += ((f"{place}.{name}", inner) for name, inner in value.items())
            for keyword, mark in (("$anchor", "#"), ("$dynamicAnchor", "#"), ("$id", ""), ("id", "")):
                name = value.get(keyword)
                if isinstance(name, str) and (mark or name.startswith("#")):
                    found.setdefault(mark + name, []).append((place, value))
    return found


def _at(root: dict[str, Any], reference: str) -> Any:
    """What a JSON pointer (RFC 6901) in a fragment leads to; None for any other reference."""
    if reference == "#":
        return root
    if not reference.startswith("#/"):
        return None
    found: Any = root
    for step in unquote(reference[2:]).split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict):
            found = found.get(name)
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found


def _settle_loosely(node: dict[str, Any], place: str, dropped: list[str]) -> None:
    """The same without what can't be enforced."""
    while True:
        before = dict(node)
        try:
            _settle(node, place)
        except UnenforceableError as refusal:
            node.clear()
            node.update(before)
            del node[refusal.keyword]
            dropped.append(refusal.param or place)
        else:
            return


def _settle(node: dict[str, Any], place: str) -> None:
    """Refuse what can't be enforced in one schema, drop what asks for nothing, and make the rest exact."""
    wrong = [kind for kind in _kinds(node) if kind not in _TYPES] if "type" in node else []
    if wrong:
        raise InvalidRequestError(
            f"'{place[:300]}.type' is {str(wrong[0])[:64]!r}; JSON Schema has {', '.join(_TYPES)}.",
            param=f"{place}.type"[:300],
            code="invalid_value",
        )
    idle = []
    for keyword in _UNENFORCED.keys() & node.keys():
        if not _UNENFORCED[keyword](node[keyword], node):
            raise UnenforceableError(place, keyword, "can't be enforced")
        idle.append(keyword)
    for keyword in idle:
        del node[keyword]
    _check_min_properties(node, place)
    _check_values(node, place)
    _settle_items(node, place)
    _settle_format(node, place)
    _settle_patterns(node, place)
    _settle_numbers(node, place)


def _check_min_properties(node: dict[str, Any], place: str) -> None:
    least = node.get("minProperties")
    if not isinstance(least, int | float):
        return
    required = node.get("required")
    is_closed = node.get("additionalProperties") is False and not node.get("patternProperties")
    if not is_closed and least > (len(set(map(str, required))) if isinstance(required, list) else 0):
        raise UnenforceableError(
            place, "minProperties", 'can only be enforced beside "additionalProperties": false or as many "required"'
        )


def _settle_format(node: dict[str, Any], place: str) -> None:
    name = node.get("format")
    if not isinstance(name, str):
        return
    if "type" in node and "string" not in _kinds(node):
        del node["format"]  # it says nothing about other types
    elif name in FORMATS:
        del node["format"]
        others = node.get("allOf")
        node["allOf"] = [*(others if isinstance(others, list) else ()), {"pattern": FORMATS[name]}]
    elif name not in EXACT_FORMATS:
        known = ", ".join(sorted({*FORMATS, *EXACT_FORMATS}))
        raise UnenforceableError(place, "format", f"{name[:64]!r} can't be enforced; {known} can")


def _settle_patterns(node: dict[str, Any], place: str) -> None:
    pattern, by_name = node.get("pattern"), node.get("patternProperties")
    try:
        if isinstance(pattern, str):
            node["pattern"] = rewrite(pattern)
        if isinstance(by_name, dict):
            rewritten: dict[str, Any] = {}
            for name, inner in by_name.items():
                same = rewrite(name)  # two spellings may become one
                rewritten[same] = {"allOf": [rewritten[same], inner]} if same in rewritten else inner
            node["patternProperties"] = rewritten
    except ValueError as error:
        keyword = "patternProperties" if isinstance(by_name, dict) else "pattern"
        raise UnenforceableError(place, keyword, f"has {error}") from error


def _settle_numbers(node: dict[str, Any], place: str) -> None:
    try:
        check_multiples([node])
        bound(node)
    except BoundError as error:
        raise UnenforceableError(place, error.keyword, str(error)) from error


def _settle_multiples(root: dict[str, Any], field: str, dropped: list[str] | None) -> None:
    """Several `multipleOf` may meet in one number, where schemas are joined."""
    parts = list(_reachable(root, field))
    joins = ("$ref", "anyOf", "oneOf", "multipleOf")
    if not any("allOf" in node or sum(join in node for join in joins) > 1 for _, node in parts):
        return
    held = [(place, node) for place, node in parts if "multipleOf" in node]
    try:
        check_multiples(node for _, node in held)
    except BoundError as error:
        if dropped is None:
            raise UnenforceableError(held[-1][0], error.keyword, str(error)) from error
        for place, node in held:
            del node["multipleOf"]
            dropped.append(f"{place}.multipleOf")


def _settle_items(node: dict[str, Any], place: str) -> None:
    """`additionalItems` has a meaning only beside a list of `items`, but is taken for one elsewhere."""
    if not isinstance(node.get("items"), list):
        node.pop("additionalItems", None)
    elif "prefixItems" in node:
        raise UnenforceableError(place, "prefixItems", "can't stand beside a list of 'items', which says the same")


def _check_values(node: dict[str, Any], place: str) -> None:
    """Values and names that would be written as others, or not at all."""
    for keyword in ("const", "enum", "required"):
        if keyword in node and (why := _unwritable(node[keyword])) is not None:
            raise UnenforceableError(place, keyword, why)
    properties = node.get("properties")
    if isinstance(properties, dict) and (why := _unwritable([*properties])) is not None:
        raise UnenforceableError(place, "properties", why)


def _unwritable(value: object) -> str | None:
    if isinstance(value, str):
        return "holds a control character, which is never written" if _CONTROL.search(value) else None
    if isinstance(value, int | float) and abs(value) > LARGEST_INTEGER + 1 and value == int(value):
        return f"holds {value}; beyond 2^53 not every number can be told from others"
    inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((why for each in inner if (why := _unwritable(each)) is not None), None)


def _kinds(node: dict[str, Any]) -> list[Any]:
    kinds = node.get("type")
    return kinds if isinstance(kinds, list) else [kinds]
