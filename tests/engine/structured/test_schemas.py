"""What a schema becomes before a grammar is made of it, and that no text of the grammar is against the schema."""

from __future__ import annotations

import json
import random
import time
from contextlib import suppress
from functools import cache
from typing import Any

import jsonschema_rs
import pytest
from benchmarks.json_schemas import schemas
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.errors import InvalidRequestError
from penstock.engine.structured import lark
from penstock.engine.structured.grammar import Matcher
from penstock.engine.structured.patterns import EXACT_FORMATS, FORMATS
from penstock.engine.structured.schemas import prepare
from support.byte_vocabulary import END, allowed, byte_tokenizer, byte_vocabulary

_PIECES = byte_vocabulary().pieces
tokenizer = cache(byte_tokenizer)


def matcher_of(schema: Any, **options: Any) -> Matcher:
    grammar = lark.grammar(lark.json_value(prepare(schema, field="schema", **options)))
    return Matcher(tokenizer().compile(grammar), tokenizer())


def accepts(schema: Any, text: str) -> bool:
    matcher = matcher_of(schema)
    return matcher.accept(list(text.encode())) == len(text.encode()) and matcher.is_complete


def draw(matcher: Matcher, rng: random.Random, tokens: int = 600) -> str | None:
    """A text that the grammar allows, by way of random tokens; None if it didn't end in time."""
    data = b""
    for count in range(tokens):
        if matcher.is_over:
            return data.decode()
        choices = allowed(matcher.mask())
        if END in choices and rng.random() < 0.4:
            return data.decode()
        choices.discard(END)
        closing = [token for token in choices if _PIECES[token].data[-1:] in b'"]}']
        rare = {token for token in choices if token >= 128 or _PIECES[token].data in b" \t\n\\"}
        if count > 60 and closing and rng.random() < 0.7:
            token = rng.choice(closing)
        else:
            token = rng.choice(sorted(choices - rare if choices - rare and rng.random() < 0.8 else choices))
        assert matcher.accept([token]) == 1
        data += _PIECES[token].data
    return None


def assert_drawn_is_valid(schema: Any, count: int, seed: int = 0) -> int:
    validator = jsonschema_rs.validator_for(schema, validate_formats=True)
    ended = 0
    for at in range(count):
        text = draw(matcher_of(schema), random.Random(1000 * seed + at))
        if text is not None:
            ended += 1
            assert validator.is_valid(json.loads(text)), (schema, text)
    return ended


def test_texts_of_200_schemas_at_random_are_valid() -> None:
    ended = sum(assert_drawn_is_valid(schema, 2, seed) for seed, schema in enumerate(schemas()))
    assert ended > 300


@pytest.mark.parametrize("name", sorted({*FORMATS, *EXACT_FORMATS}))
def test_formats_are_what_a_validator_takes_them_for(name: str) -> None:
    assert assert_drawn_is_valid({"type": "string", "format": name}, 60) > 50


@pytest.mark.parametrize("text", ["2024-02-29", "2000-02-29", "1999-12-31"])
def test_days_that_are_can_be_written(text: str) -> None:
    assert accepts({"type": "string", "format": "date"}, f'"{text}"')


@pytest.mark.parametrize("text", ["2023-02-29", "1900-02-29", "2024-04-31", "2024-00-10", "2024-13-01"])
def test_days_that_are_not_cant(text: str) -> None:
    assert not accepts({"type": "string", "format": "date"}, f'"{text}"')


EDGES: list[Any] = [
    {"type": "number"},
    {"type": ["number", "null"], "minimum": 3},
    {"type": "number", "exclusiveMaximum": -2.5},
    {"type": "number", "multipleOf": 0.01},
    {"anyOf": [{"type": "number"}, {"type": "string", "format": "time"}]},
    {"type": "string", "pattern": r"^\s{2}$"},
    {"type": "string", "pattern": r"^[(?=!]\(?(?:a|b)$"},
    {"type": "string", "pattern": r"^[^\s]{2}$"},
    {"type": "string", "pattern": r"^\S.$"},
    {"type": "string", "pattern": r"^[\s\d]{3}$"},
    {"type": "string", "pattern": r"^[^\S]x$"},
    {"type": "string", "pattern": r"^[[&&]{1,3}$"},
    {"type": "string", "format": "email", "maxLength": 20},
    {"type": "string", "format": "date", "pattern": "^2", "allOf": [{"pattern": "9$"}]},
    {"type": "object", "properties": {"a": {"type": "integer"}}},
    {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "boolean"}},
    {"type": "object", "required": ["a", "b"], "minProperties": 2},
    {"type": "object", "properties": {"a": {}, "b": {}}, "additionalProperties": False, "minProperties": 1},
    {"type": "object", "patternProperties": {r"^\s": {"type": "integer"}}, "additionalProperties": False},
    {
        "type": "object",
        "patternProperties": {
            "^[&]$": {"type": "integer", "minimum": 5, "maximum": 90},
            r"^[\&]$": {"type": "integer", "maximum": 9},
        },
        "additionalProperties": False,
    },
    {"type": "array", "uniqueItems": False, "maxItems": 2},
    {"type": "object", "additionalProperties": {"$ref": "#"}, "maxProperties": 2},
    {"type": "integer", "format": "int64"},
    {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "boolean"}], "additionalItems": False},
    {"properties": {"a": {"$ref": "#x"}}, "$defs": {"x": {"$anchor": "x", "type": "null"}}, "required": ["a"]},
    {"if": True, "type": "null"},
    True,
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.2},
    {"type": "number", "exclusiveMinimum": -0.0, "maximum": 1},
    {"exclusiveMaximum": 100, "type": ["number", "null"]},
    {"type": "number", "multipleOf": 2.5},
    {"type": "integer", "minimum": -1e19, "maximum": 2**63 - 1},
    {"type": "integer", "multipleOf": 7, "allOf": [{"multipleOf": 0.5}, {"exclusiveMinimum": 0.5}]},
    {"type": "array", "prefixItems": [{"type": "string"}], "additionalItems": True, "maxItems": 1, "minItems": 1},
    {"type": "string", "pattern": r'^[^"]{1,3}$'},
    {"type": "string", "pattern": r"^[^\\]{1,3}$"},
    {"type": "string", "pattern": r"^[\x00-\x1f]$"},
    {"type": "string", "pattern": r"^\P{Po}$"},
    {"properties": {"a": {"$ref": "#x"}, "b": {"$anchor": "x", "type": "number"}}, "required": ["a"]},
]


@pytest.mark.parametrize("schema", EDGES, ids=json.dumps)
def test_edges_of_the_language_are_kept_to_the_letter(schema: Any) -> None:
    assert assert_drawn_is_valid(schema, 40) > 30


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, '{"\\u0061":"x"}'),
        ({"type": "object", "properties": {"a/b": {"type": "integer"}}}, '{"a\\/b":"x"}'),
        ({"type": "number"}, "1e999"),
        ({"type": "number"}, "9" * 400),
        ({"type": "string"}, '"\\ud800"'),
        ({"type": "number", "exclusiveMaximum": 0.2}, "0.19999999999999999999"),
        ({"type": "number", "exclusiveMinimum": 0}, "0." + "0" * 400 + "1"),
        ({"type": "number", "minimum": 0, "exclusiveMinimum": True}, "0"),
        ({"type": "number", "multipleOf": 2.5}, "7938936629223962.5"),
        ({"type": "string", "pattern": r'^[^"]$'}, r'"\""'),
        ({"type": "string", "pattern": r"^[^\\]$"}, r'"\\"'),
        ({"type": "array"}, "[" + " " * 300 + "]"),
        ({"type": "array"}, "[" + "\n" * 2 + "]"),
    ],
)
def test_what_a_reader_could_take_for_something_else_is_not_written(schema: Any, text: str) -> None:
    assert not accepts(schema, text)


def test_white_space_is_for_layout_or_left_out() -> None:
    laid_out = json.dumps({"a": [1, {"b": None}]}, indent=4)
    schema = {"type": "object"}
    assert accepts(schema, laid_out)
    assert accepts(schema, '{"a": 1, "b":2}')
    compact = matcher_of(schema, compact=True)
    assert compact.accept(list(b'{"a": 1}')) == len(b'{"a":')


UNENFORCED: list[tuple[Any, str, str]] = [
    ({"type": "array", "uniqueItems": True}, "uniqueItems", "schema.uniqueItems"),
    ({"contains": {}}, "contains", "schema.contains"),
    ({"properties": {"a": {"not": {}}}}, "not", "schema.properties.a.not"),
    ({"anyOf": [True, {"if": {}, "then": {}}]}, "if|then", "schema.anyOf[1]"),
    (
        {"items": {"$ref": "#/$defs/x~1y"}, "$defs": {"x/y": {"propertyNames": {"maxLength": 2}}}},
        "propertyNames",
        "x~1y",
    ),
    ({"unevaluatedProperties": False}, "unevaluatedProperties", "schema.unevaluatedProperties"),
    ({"dependentRequired": {"a": ["b"]}}, "dependentRequired", "schema"),
    ({"$dynamicRef": "#a"}, "dynamicRef", "schema"),
    ({"x-guidance": {"lenient": True}, "not": {}}, "x-guidance|not", "schema"),
    ({"type": "object", "minProperties": 1}, "minProperties", "schema.minProperties"),
    ({"type": "string", "format": "byte"}, "'byte'", "schema.format"),
    ({"type": "string", "pattern": "[--/]"}, "'--'", "schema.pattern"),
    ({"type": "string", "pattern": r"^(?!a)b"}, "look around", "schema.pattern"),
    ({"type": "string", "pattern": r"a(?<=a)"}, "look around", "schema.pattern"),
    ({"type": "string", "pattern": r"(a)\1"}, "reference back", "schema.pattern"),
    ({"type": "string", "pattern": r"(?<x>a)\k<x>"}, "reference back", "schema.pattern"),
    ({"properties": {"a": {"type": ["string", "nul"]}}}, "'nul'; JSON Schema has", "schema.properties.a.type"),
    ({"type": None}, "'None'; JSON Schema has", "schema.type"),
    ({"$ref": "#anchor", "$defs": {"a": {"$anchor": "anchor", "not": {}}}}, "not", "schema.$defs.a.not"),
    (
        {"prefixItems": [{"additionalProperties": {"contains": True}}]},
        "contains",
        "prefixItems[0].additionalProperties",
    ),
    ({"type": "integer", "minimum": -1e19, "maximum": -1e19}, "maximum", "schema.maximum"),
    ({"type": "number", "exclusiveMinimum": 1e300}, "exclusiveMinimum", "schema.exclusiveMinimum"),
    ({"type": "integer", "multipleOf": 99999989}, "multipleOf", "schema.multipleOf"),
    ({"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}, "multipleOf", "multipleOf"),
    ({"type": "number", "multipleOf": -2}, "multipleOf", "schema.multipleOf"),
    ({"items": {"const": {"a": 2**53 + 1}}}, "const", "schema.items.const"),
    ({"enum": [1, 1e300]}, "enum", "schema.enum"),
    ({"enum": ["a", {"b": "\x01"}]}, "control character", "schema.enum"),
    ({"properties": {"\0": {}}}, "control character", "schema.properties"),
    ({"items": [{}], "prefixItems": [{}]}, "prefixItems", "schema.prefixItems"),
    ({"pattern": r"^a\z"}, "another meaning", "schema.pattern"),
    ({"pattern": "[^]"}, "empty brackets", "schema.pattern"),
    ({"$ref": "#x", "items": {"$anchor": "x", "not": {}}}, "not", "schema.items.not"),
    ({"prefixItems": [{"type": "null"}] * 30_000}, "30000 schemas", "schema"),
    ("text", "must be a JSON schema", "schema"),
    (False, "must be a JSON schema", "schema"),
    (json.loads("[" * 150 + "]" * 150), "nested", "schema"),
]


@pytest.mark.parametrize(("schema", "named", "place"), UNENFORCED, ids=lambda each: str(each)[:40])
def test_what_cant_be_enforced_is_refused_by_name_and_place(schema: Any, named: str, place: str) -> None:
    with pytest.raises(InvalidRequestError, match=named) as caught:
        prepare(schema, field="schema")
    assert place in (caught.value.param or "")


def test_definitions_that_nothing_refers_to_may_say_anything_and_the_schema_given_is_left_alone() -> None:
    schema = {"type": "string", "format": "time", "$defs": {"unused": {"not": {}}}}
    before = json.dumps(schema)
    assert accepts(schema, '"12:30:00Z"')
    assert json.dumps(schema) == before


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "number", "exclusiveMaximum": 100, "minimum": 0}, "99.9"),
        ({"type": "number", "exclusiveMinimum": 0}, "0.01"),
        ({"type": "number", "exclusiveMinimum": 0}, "999999999"),
        ({"type": "number", "multipleOf": 0.01, "maximum": 5}, "-0.01"),
        ({"type": "integer", "exclusiveMinimum": 2, "maximum": 1e30}, "3"),
        ({"type": "integer", "minimum": 1, "maximum": 2**53 - 1}, str(2**53 - 1)),
        ({"const": 2**53}, str(2**53)),
        ({"type": "string", "minimum": 1e300}, '"a"'),
    ],
)
def test_what_is_within_bounds_can_be_written(schema: Any, text: str) -> None:
    assert accepts(schema, text)


def test_several_multiples_apart_are_each_enforced() -> None:
    schema = {
        "properties": {"a": {"type": "integer", "multipleOf": 9973}, "b": {"type": "integer", "multipleOf": 9967}},
        "required": ["a", "b"],
    }
    assert accepts(schema, '{"a":9973,"b":19934}')
    assert not accepts(schema, '{"a":9967,"b":9973}')


_KEYWORDS = st.sampled_from(
    [
        "type",
        "properties",
        "items",
        "anyOf",
        "allOf",
        "$ref",
        "$defs",
        "required",
        "enum",
        "const",
        "format",
        "pattern",
        "minimum",
        "maxLength",
        "minProperties",
        "patternProperties",
        "additionalProperties",
        "prefixItems",
        "not",
        "a",
    ]
)


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(-99, 99), st.sampled_from(["string", "#", "#/a"]), st.text()),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYWORDS, inner, max_size=4),
        max_leaves=12,
    )
)
def test_any_json_is_prepared_and_compiled_or_refused(schema: Any) -> None:
    with suppress(InvalidRequestError):
        assert matcher_of(schema).mask()


def test_what_cant_be_enforced_is_left_out_where_the_caller_takes_note_of_it() -> None:
    odd = {"type": "array", "uniqueItems": True, "contains": {}, "items": {"type": "string", "format": "phone"}}
    schema = {"type": "object", "properties": {"a": odd}, "propertyNames": {"maxLength": 3}, "minProperties": 1}
    dropped: list[str] = []
    prepared = prepare(schema, field="f", dropped=dropped)
    assert sorted(dropped) == [
        "f.minProperties",
        "f.properties.a.contains",
        "f.properties.a.items.format",
        "f.properties.a.uniqueItems",
        "f.propertyNames",
    ]
    assert prepared["properties"] == {"a": {"type": "array", "items": {"type": "string"}}}
    assert schema["properties"] == {"a": odd}


def test_many_references_by_name_beside_many_definitions_take_little_time() -> None:
    count = 10_000
    definitions = {f"p{at}": {"type": "string"} for at in range(count)}
    named = {"$defs": definitions, "anyOf": [{"$ref": f"#q{at}"} for at in range(count)]}
    began = time.process_time()
    prepare(named, field="f")
    assert time.process_time() - began < 5, "each with each would be minutes"
