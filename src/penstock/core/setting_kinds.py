"""What a setting may hold, and how people write it: in TOML, in an environment variable, or as a flag.

Each kind is a function from what was given to the setting's value; what is a value already stays as it is. Raises
ConfigError, with a reason that goes on after the setting's name, for what it can't be.
"""

from __future__ import annotations

import math
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from penstock.core.errors import ConfigError
from penstock.core.sizes import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable

    Read = Callable[[object], Any]

_TRUE = frozenset({"1", "on", "t", "true", "y", "yes"})
_FALSE = frozenset({"0", "off", "f", "false", "n", "no"})


def setting(default: Any, read: Read, *, secret: bool = False, flag: str = "") -> Any:
    """A field of a settings class. A secret isn't shown in the class's `repr`; `flag`: its name where it is another."""
    return field(default=default, metadata={"read": read, "flag": flag}, repr=not secret)


def integer(low: int, high: int | None = None) -> Read:
    """A whole number from `low` to `high`."""
    bounds = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"

    def read(value: object) -> int:
        try:
            number = int(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
        except ValueError:
            number = None
        if number is None or number < low or (high is not None and number > high):
            raise ConfigError(f"must be {bounds}")
        return number

    return read


def number(low: float, high: float = math.inf, *, above: bool = False) -> Read:
    """A number from `low` (or above it) to `high`."""
    bounds = (f"above {low:g}" if above else f"of at least {low:g}") + (
        f" and at most {high:g}" if high < math.inf else ""
    )

    def read(value: object) -> float:
        try:
            number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
        except ValueError:
            number = math.nan
        if not low <= number <= high or (above and number == low):  # NaN fails the comparison
            raise ConfigError(f"must be a number {bounds}")
        return number

    return read


def choice(words: Any) -> Read:
    """One of the words of a `Literal`."""
    *first, last = map(repr, get_args(words))

    def read(value: object) -> str:
        if value not in get_args(words):
            raise ConfigError(f"must be {', '.join(first)} or {last}")
        return str(value)

    return read


def text(value: object) -> str:
    """A string."""
    if not isinstance(value, str):
        raise ConfigError("must be a string")
    return value


def switch(value: object) -> bool:
    """True or false, written as TOML's or as usual in environment variables."""
    word = str(value).lower()
    if word not in _TRUE | _FALSE:
        raise ConfigError("must be true or false")
    return word in _TRUE


def path(value: object) -> Path:
    """A path of the file system."""
    if not isinstance(value, str | Path):
        raise ConfigError("must be a path")
    return Path(value)


def size(low: int = 1) -> Read:
    """Bytes, also written as "2GiB"; at least `low`."""

    def read(value: object) -> int:
        if not isinstance(value, str | int | float):
            raise ConfigError("must be a size, for example 2GiB")
        size = parse_size(value)
        if size < low:
            raise ConfigError(f"must be at least {low} bytes")
        return size

    return read


def named_paths(value: object) -> tuple[tuple[str, str], ...]:
    """Names with paths: a TOML table, a list of "NAME=PATH", or one string with commas between them."""
    if isinstance(value, dict) and all(isinstance(place, str) for place in value.values()):
        pairs = list(value.items())
    elif isinstance(value, list | tuple) and all(isinstance(part, tuple) for part in value):
        pairs = list(value)
    else:
        pairs = [part.partition("=")[::2] for part in names(value)]
    if not all(len(pair) == 2 and all(pair) and pair[0].isprintable() for pair in pairs):
        raise ConfigError("must be of the form NAME=PATH")
    if len({pair[0] for pair in pairs}) < len(pairs):
        raise ConfigError("must not give two paths the same name")
    return tuple((name, str(Path(place).expanduser())) for name, place in pairs)


def names(value: object) -> tuple[str, ...]:
    """Several strings: a TOML list, or one string with commas between them."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
        raise ConfigError("must be a list of strings")
    return tuple(value)
