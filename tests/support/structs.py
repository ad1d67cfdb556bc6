"""What msgspec's types are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator


def fields_of(kind: type[msgspec.Struct]) -> set[str]:
    """Names as they are on the wire."""
    return {field.encode_name for field in msgspec.structs.fields(kind)}


def structs_in(*kinds: Any) -> Iterator[type[msgspec.Struct]]:
    """Every struct that the types are made of, themselves included."""
    seen: set[Any] = set()
    left = list(kinds)
    while left:
        kind = left.pop()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            if kind in seen:
                continue
            seen.add(kind)
            yield kind
            left += [field.type for field in msgspec.structs.fields(kind)]
        left += get_args(kind)
