"""HTML built from calls: text is escaped by its type, not by anyone's care."""

from __future__ import annotations

import json
import math
import re
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_VOID = frozenset({"br", "col", "hr", "img", "input", "link", "meta"})
_NAME = re.compile(r"[a-z][a-z0-9-]*")
# Without a scheme (a path, a fragment), or to the web or a mailbox; `javascript:` and `data:` are none of these.
_SAFE_LINK = re.compile(r"(?:https?:|mailto:|[^:/?#]*(?:[/?#]|$))", re.IGNORECASE)
_CONTROLS = dict.fromkeys([*range(9), 11, 12, *range(14, 32), *range(127, 160)], "\ufffd")


class Markup(str):
    """HTML that is to be taken as it is; every other string is text."""

    __slots__ = ()


def text(value: str) -> Markup:
    """Escaped for an element or a quoted attribute; control characters, which HTML has no place for, are replaced."""
    return Markup(escape(value.translate(_CONTROLS)))


def join(parts: Iterable[str | None], between: str = "") -> Markup:
    """Of markup and text."""
    return Markup(between.join(part if isinstance(part, Markup) else text(part) for part in parts if part is not None))


def element(tag: str, /, *children: str | None, **attributes: str | float | bool | None) -> Markup:
    """`element("a", "text", href="#x", class_="link")`.

    An underscore in an attribute's name is a hyphen, a last one is dropped. None and False leave an attribute out, True
    writes its name alone. A link whose scheme could run something is left out.
    """
    written = [tag]
    for key, value in attributes.items():
        name = key.rstrip("_").replace("_", "-")
        if not _NAME.fullmatch(name) or name.startswith("on"):
            raise ValueError(f"{key!r} is no attribute that a page may have")
        if value is None or value is False or (name == "href" and not is_safe_link(str(value))):
            continue
        written.append(name if value is True else f'{name}="{text(str(value))}"')
    start = f"<{' '.join(written)}>"
    return Markup(start) if tag in _VOID else Markup(f"{start}{join(children)}</{tag}>")


def is_safe_link(href: str) -> bool:
    """Whether following it can do no more than open another page."""
    return _SAFE_LINK.match(href) is not None and not any(ord(sign) < 33 or ord(sign) == 127 for sign in href)


def data_block(name: str, value: Any) -> Markup:
    """JSON for a script to read, in an element with the id `name`.

    Inside a script element only `</script` and `<!--` end the text early: `<` is written as an escape that JSON knows.
    """
    written = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        written = written.replace(sign, f"\\u{ord(sign):04x}")
    # A lone surrogate is no UTF-8.
    written = written.encode("utf-8", "replace").decode()
    return Markup(f'<script type="application/json" id="{text(name)}">{written}</script>')


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for both. Nine digits are more than any axis shows."""
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
