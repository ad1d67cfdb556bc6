"""What the query of a list says: how much of it, and from which end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping


def page_limit(query: Mapping[str, str], default: int, most: int) -> int:
    """How many items a page has. Raises InvalidRequestError unless that is a number from 1 to `most`."""
    given = query.get("limit", str(default))
    is_short = given.isascii() and given.isdecimal() and len(given) <= len(str(most))  # Python converts no long ones
    if not is_short or not 1 <= int(given) <= most:
        raise InvalidRequestError(f"'limit' must be a number from 1 to {most}.", param="limit", code="invalid_value")
    return int(given)


def page_descends(query: Mapping[str, str]) -> bool:
    """Whether the newest comes first, which it does unless the query says otherwise. Raises InvalidRequestError."""
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequestError("'order' must be asc or desc.", param="order", code="invalid_value")
    return order == "desc"
