"""Two hundred JSON schemas of growing difficulty, the same ones every time."""

from __future__ import annotations

import random
from typing import Any

Schema = dict[str, Any]
COUNT = 200

# Keys as people write them, and as they would rather not.
_KEYS = ("name", "größe", "数量", "ключ", "a b", 'quo"te', "back\\slash", "emoji 🐟", "tab\there", "x-y.z", "$ref", "")
_TEXTS = ("red", "grün", "青い", 'a "quoted" word', "line\nbreak", "🐟🐠", "\\", "null")
_PATTERNS = (r"^[a-z]{2,5}$", r"^\d{3}-\d{2}$", r"^(foo|bar)+$", r"^[^\s]{1,4}$", r"^\w+@\w+$", r"^.{0,6}$", r"é")
_FORMATS = ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid")


def schemas() -> list[Schema]:
    """All of them, the simplest first."""
    return [_schema(random.Random(index), index * 5 // COUNT) for index in range(COUNT)]


def _schema(rng: random.Random, level: int) -> Schema:
    made = (_scalar, _flat, _nested, _choosing, _recursive)[level](rng)
    return made if rng.random() < 0.5 else {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def _scalar(rng: random.Random) -> Schema:
    low = rng.randint(-1000, 1000)
    match rng.randrange(9):
        case 0:
            return {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 5000)}
        case 1:
            return {"type": "number", "exclusiveMinimum": low / 8, "maximum": low / 8 + 2.5}
        case 2:
            return {"type": "integer", "multipleOf": rng.randint(2, 30), "minimum": 0, "maximum": 9999}
        case 3:
            least = rng.randint(0, 4)
            return {"type": "string", "minLength": least, "maxLength": least + rng.randint(1, 12)}
        case 4:
            return {"type": "string", "pattern": rng.choice(_PATTERNS), "maxLength": 12}
        case 5:
            return {"type": "string", "format": rng.choice(_FORMATS)}
        case 6:
            return {"enum": [*rng.sample(_TEXTS, 3), low, None, True, {"deep": [low]}]}
        case 7:
            return {"const": {"key": rng.choice(_TEXTS), "list": [low, low / 4, False]}}
        case _:
            return {"type": rng.sample(["integer", "boolean", "null"], 2)}


def _flat(rng: random.Random) -> Schema:
    keys = rng.sample(_KEYS, rng.randint(1, 4))
    return _object({key: _scalar(rng) for key in keys}, required=rng.sample(keys, rng.randint(0, len(keys))))


def _nested(rng: random.Random, depth: int = 2) -> Schema:
    if depth == 0:
        return _scalar(rng)
    match rng.randrange(4):
        case 0:
            least = rng.randint(0, 2)
            items = _nested(rng, depth - 1)
            return {"type": "array", "items": items, "minItems": least, "maxItems": least + rng.randint(0, 2)}
        case 1:
            first = [_scalar(rng) for _ in range(rng.randint(1, 3))]
            return {"type": "array", "prefixItems": first, "items": False, "minItems": rng.randint(0, len(first))}
        case 2:
            return {
                "type": "object",
                "patternProperties": {"^k[0-9]$": _nested(rng, depth - 1)},
                "additionalProperties": False,
                "maxProperties": 2,
            }
        case _:
            keys = rng.sample(_KEYS, rng.randint(1, 3))
            return _object({key: _nested(rng, depth - 1) for key in keys}, required=keys)


def _choosing(rng: random.Random) -> Schema:
    """Choices between schemas, schemas that hold together, and references, with names that need escaping."""
    definitions = {"plain": _nested(rng, 1), "with/slash ~": _scalar(rng)}
    match rng.randrange(4):
        case 0:
            made: Schema = {"anyOf": [_flat(rng), _scalar(rng), {"$ref": "#/$defs/plain"}]}
        case 1:
            kinds = [_object({"kind": {"const": kind}, "value": _scalar(rng)}) for kind in ("first", "zweite")]
            made = {"oneOf": kinds}
        case 2:
            low = rng.randint(0, 50)
            made = _object(
                {
                    "both": {"allOf": [{"type": "integer", "minimum": low}, {"maximum": low + 100}]},
                    "named": {"$ref": "#/$defs/with~1slash%20~0"},
                }
            )
        case _:
            made = _object({"list": {"type": "array", "items": {"$ref": "#/$defs/plain"}, "maxItems": 2}})
    return {**made, "$defs": definitions}


def _recursive(rng: random.Random) -> Schema:
    value = _scalar(rng)
    match rng.randrange(3):
        case 0:  # a linked list
            node = _object({"value": value, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}})
        case 1:  # a tree
            node = _object({"value": value, "子": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2}})
        case _:  # one through another
            node = _object({"other": {"anyOf": [value, {"$ref": "#/$defs/other"}]}})
    other = {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 1}
    return {"$ref": "#/$defs/node", "$defs": {"node": node, "other": other}}


def _object(properties: Schema, required: list[str] | None = None) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
    }
