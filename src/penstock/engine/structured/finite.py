"""Schemas that no finite value satisfies, because each needs another of its own kind within.

As with productive symbols of a grammar (Hopcroft and Ullman, Introduction to Automata Theory, 4.4): what can be
satisfied without the rest comes first, then what needs only that, until nothing is added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_WORK = 100_000  # schemas looked at; one that needs more is left to the matcher
_CONTAINERS = ("object", "array")


def endless(parts: Sequence[tuple[str, dict[str, Any]]], target: Callable[[str], Any]) -> str | None:
    """The place of a schema among `parts` that only an endless text would satisfy, if there is one.

    Args:
        parts: all schemas that can be reached, each with its place.
        target: what a reference leads to; None where it can't be told.
    """
    finite: set[int] = set()
    open_: list[tuple[str, dict[str, Any]]] = list(reversed(parts))  # what is within comes first
    for _ in range(max(10, _WORK // max(1, len(open_)))):
        left = [(place, node) for place, node in open_ if not _settled(node, finite, target)]
        if not left:
            return None
        if len(left) == len(open_):
            place, _ = left[-1]
            return place
        open_ = left
    return None


def _settled(node: dict[str, Any], finite: set[int], target: Callable[[str], Any]) -> bool:
    def is_finite(inner: object) -> bool:
        return not isinstance(inner, dict) or id(inner) in finite

    reference = node.get("$ref")
    satisfied = (
        (not isinstance(reference, str) or is_finite(target(reference)))
        and all(any(map(is_finite, held)) for name in ("anyOf", "oneOf") if (held := _listed(node, name)))
        and all(map(is_finite, _listed(node, "allOf")))
        and ("const" in node or "enum" in node or _has_finite_kind(node, is_finite))
    )
    if satisfied:
        finite.add(id(node))
    return satisfied


def _has_finite_kind(node: dict[str, Any], is_finite: Callable[[object], bool]) -> bool:
    kinds = node.get("type")
    allowed = kinds if isinstance(kinds, list) else [kinds]
    if any(kind not in _CONTAINERS for kind in allowed):  # a scalar, or anything
        return True
    if "object" in allowed:
        properties, required = node.get("properties"), _listed(node, "required")
        held = properties if isinstance(properties, dict) else {}
        if all(is_finite(held.get(name)) for name in required if isinstance(name, str)):
            return True
    if "array" not in allowed:
        return False
    least = node.get("minItems")
    first, items = _listed(node, "prefixItems"), node.get("items")
    if not isinstance(least, int) or least <= 0:
        return True
    return all(map(is_finite, first[:least])) and (least <= len(first) or is_finite(items))


def _listed(node: dict[str, Any], name: str) -> list[Any]:
    held = node.get(name)
    return held if isinstance(held, list) else []
