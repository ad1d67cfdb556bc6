"""JSON schemas as grammars can enforce them: what can't be enforced is refused by name, the rest is made exact.

llguidance compiles most of JSON Schema (https://json-schema.org/draft/2020-12). What it would not hold to the letter
is settled here before it sees the schema:

- a member's name has one spelling: `\\u0061` for `a` could pass for another member, so there are no such escapes;
- a name could come twice among those that no schema names, so `minProperties` is taken only where it can't be met so;
- `number` gets bounds and so no exponent: 1e999 would be one too, and most who read JSON can't take it;
- `pattern` and some formats are rewritten (`engine/structured/patterns.py`);
- white space is a space or a line's end with an indentation, since a model may add to it for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from penstock.core.errors import InvalidRequestError
from penstock.engine.structured.patterns import EXACT_FORMATS, FORMATS, rewrite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CODE = "unsupported_schema"
LARGEST_NUMBER = 9e18
_MAX_DEPTH = 100
_ESCAPES = '"\\bfnrt'
_WHITE_SPACE = "[ ]|\\n([ ]{0,16}|\\t{0,8})"  # between words, or a new line and what it is indented by

# Keywords that hold schemas: by name, in order, alone.
_MAPS = ("properties", "patternProperties")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "additionalItems")
_DEFINITIONS = ("$defs", "definitions")
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
    for place, node in list(_reachable(copied, field)):
        if dropped is None:
            _settle(node, place)
        else:
            _settle_loosely(node, place, dropped)
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
    root_opened = False
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
            else:  # by another name than its place: it may be any
                if not root_opened:  # once: a client may send a great many of both
                    open_ += _definitions(root, field)
                    root_opened = True
                open_ += _definitions(node, place)


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


def _definitions(node: dict[str, Any], place: str) -> Iterator[tuple[str, Any]]:
    for keyword in _DEFINITIONS:
        held = node.get(keyword)
        if isinstance(held, dict):
            yield from ((f"{place}.{keyword}.{name}", inner) for name, inner in held.items())


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
    _settle_format(node, place)
    _settle_patterns(node, place)
    _bound_numbers(node)


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


def _bound_numbers(node: dict[str, Any]) -> None:
    if "number" not in _kinds(node) or node.keys() & {"enum", "const", "$ref"}:
        return
    low = max(_numbers(node, "minimum", "exclusiveMinimum"), default=None)
    high = min(_numbers(node, "maximum", "exclusiveMaximum"), default=None)
    if low is None and (high is None or high > -LARGEST_NUMBER):
        node["minimum"] = -LARGEST_NUMBER
    if high is None and (low is None or low < LARGEST_NUMBER):
        node["maximum"] = LARGEST_NUMBER


def _kinds(node: dict[str, Any]) -> list[Any]:
    kinds = node.get("type")
    return kinds if isinstance(kinds, list) else [kinds]


def _numbers(node: dict[str, Any], *keywords: str) -> list[float]:
    values = (node.get(keyword) for keyword in keywords)
    return [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
