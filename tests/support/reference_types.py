"""Types of other people's clients, read for the names of their fields."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin, get_type_hints

from penstock.server.manifest.events import EVENTS
from penstock.server.manifest.table import APIS, PARTS

TABLES = {table.name: table for table in (*APIS, *PARTS, *EVENTS)}


def members(kind: Any) -> list[Any]:
    """What a union is made of, one by one; of anything else, itself."""
    kind = getattr(kind, "__value__", kind)
    if get_origin(kind) is Annotated:
        return members(get_args(kind)[0])
    if get_origin(kind) is not None:
        return [each for arg in get_args(kind) for each in members(arg)]
    return [kind]


def fields_of(kind: Any) -> set[str]:
    """Names on the wire: of a pydantic model, a typed dict, or a union of them."""
    found: set[str] = set()
    for each in members(kind):
        if hasattr(each, "model_fields"):
            found |= {field.alias or name for name, field in each.model_fields.items()}
        else:
            found |= set(get_type_hints(each))
    return found


def tags(kind: Any, name: str = "type") -> set[str]:
    """The values that tell the members of a union apart."""
    found: set[str] = set()
    for each in members(kind):
        hint = each.model_fields[name].annotation if hasattr(each, "model_fields") else get_type_hints(each)[name]
        while get_origin(hint) is not None and not isinstance(get_args(hint)[0], str):
            hint = get_args(hint)[0]
        found |= set(get_args(hint))
    return found


def difference(name: str, theirs: set[str], but: set[str] = frozenset()) -> tuple[set[str], set[str]]:  # type: ignore[assignment]
    """Fields that the manifest doesn't know of, and fields that it says are the reference's and aren't.

    Args:
        name: of an API, an object or a stream's events.
        theirs: the reference's fields.
        but: fields of the reference that its client's types lack.
    """
    table = TABLES[name]
    config = getattr(getattr(table, "kind", None), "__struct_config__", None)
    tag = {config.tag_field} if config is not None and config.tag_field else set()
    own = {field for field, entry in table.fields.items() if not entry.origin} | tag
    return theirs - set(table.fields) - tag, own - theirs - but


def named(beginning: str) -> set[str]:
    """APIs, objects and events whose reference is below this address."""
    return {name for name, table in TABLES.items() if table.origins[""].startswith(beginning)}
