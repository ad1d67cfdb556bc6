"""Schemas whose values would never end are found, and no others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.errors import InvalidRequestError
from penstock.engine.structured.schemas import prepare

NAMES = ("a", "b", "c")
REFERENCES = st.sampled_from(NAMES).map(lambda name: {"$ref": f"#/$defs/{name}"})
NODES = st.one_of(
    st.just({"type": "null"}),
    REFERENCES,
    st.dictionaries(st.sampled_from("xy"), REFERENCES, max_size=2).flatmap(
        lambda held: st.sets(st.sampled_from("xyz")).map(
            lambda required: {"type": "object", "properties": held, "required": sorted(required)}
        )
    ),
    st.tuples(REFERENCES, st.integers(0, 2)).map(lambda x: {"type": "array", "items": x[0], "minItems": x[1]}),
    st.tuples(REFERENCES, REFERENCES).map(
        lambda x: {"type": "array", "prefixItems": [x[0]], "items": x[1], "minItems": 1}
    ),
    st.lists(REFERENCES, min_size=1, max_size=2).map(lambda held: {"anyOf": held}),
    st.lists(REFERENCES, min_size=1, max_size=2).map(lambda held: {"allOf": held}),
)


def has_value(node: dict[str, Any], defs: dict[str, Any], depth: int) -> bool:
    """Whether a value no deeper than `depth` satisfies it, found by trying."""
    if depth == 0:
        return False

    def inner(held: dict[str, Any]) -> bool:
        return has_value(held, defs, depth - 1)

    if "$ref" in node:
        return inner(defs[node["$ref"].rpartition("/")[2]])
    if "anyOf" in node:
        return any(map(inner, node["anyOf"]))
    if "allOf" in node:
        return all(map(inner, node["allOf"]))
    if node["type"] == "object":
        return all(inner(node["properties"][name]) for name in node["required"] if name in node["properties"])
    if node["type"] == "array":
        first = node.get("prefixItems", [])
        needed = [*first, *[node["items"]] * node["minItems"]][: node["minItems"]]
        return all(map(inner, needed))
    return True


def reachable(node: Any, defs: dict[str, Any], seen: set[str]) -> set[str]:
    if isinstance(node, dict):
        name = node["$ref"].rpartition("/")[2] if "$ref" in node else None
        if name is not None and name not in seen:
            seen.add(name)
            reachable(defs[name], defs, seen)
        for key in ("properties", "items", "prefixItems", "anyOf", "allOf"):
            held = node.get(key)
            for each in held.values() if key == "properties" and held else held if isinstance(held, list) else [held]:
                reachable(each, defs, seen)
    return seen


@given(st.fixed_dictionaries(dict.fromkeys(NAMES, NODES)))
def test_a_schema_is_refused_as_endless_exactly_if_a_part_of_it_has_no_finite_value(defs: dict[str, Any]) -> None:
    root = {"$ref": "#/$defs/a"}
    parts = reachable(root, defs, set())
    ends = all(has_value(defs[name], defs, 12) for name in parts)
    if ends:
        prepare(root | {"$defs": defs}, field="schema")
    else:
        with pytest.raises(InvalidRequestError, match="none would ever end"):
            prepare(root | {"$defs": defs}, field="schema")


def test_the_place_is_named() -> None:
    endless = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["next"]}
    schema = {"type": "object", "properties": {"list": {"$ref": "#/$defs/node"}}, "$defs": {"node": endless}}
    with pytest.raises(InvalidRequestError, match=r"'schema\.(\$defs\.node|properties\.list)") as caught:
        prepare(schema, field="schema")
    assert caught.value.param == "schema"


@pytest.mark.parametrize("way_out", [{"enum": [{"next": 1}]}, {"const": 3}, {"type": ["object", "null"]}])
def test_a_schema_that_offers_a_way_out_is_taken(way_out: dict[str, Any]) -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    prepare(node | way_out, field="schema")
