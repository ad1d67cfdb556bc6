"""The nearest right name for a wrong one, for error messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST = 256  # characters of what may be a slip


def nearest(wrong: str, known: Iterable[str]) -> str | None:
    """The member of `known` most like `wrong`, letter case aside, or None if none is near."""
    if len(wrong) > LONGEST:  # clients choose it, and comparing takes time
        return None
    from difflib import get_close_matches

    by_folded = {name.casefold(): name for name in known}
    found = get_close_matches(wrong.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[found[0]] if found else None


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """The sentence "Did you mean 'X'?" after a space, or nothing if no known name is near."""
    name = nearest(wrong, known)
    return f" Did you mean {name!r}?" if name else ""
