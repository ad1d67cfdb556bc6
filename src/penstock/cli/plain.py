"""Reads a plain `penstock serve` without Typer, whose import and checks take longer than a server needs to start.

What is read here means the same to Typer. Whatever is not plainly right (a mistake, a question for help, the shell's
completion) is left to it, and so are its words.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from penstock.cli.flags import SERVED_ENGINE, SERVER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.cli.flags import Flag

_NUMBERS = {int: re.compile(r"[0-9]{1,18}"), float: re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?")}


@dataclass(slots=True)
class Serve:
    """The arguments of `penstock serve`; of the flags, those that were given, by setting."""

    model: str | None = None
    offline: bool = False
    engine: dict[str, Any] = field(default_factory=dict)
    server: dict[str, Any] = field(default_factory=dict)


def read_serve(arguments: Sequence[str]) -> Serve | None:
    """What `arguments` ask `penstock serve` for; None if they are for Typer to read."""
    if list(arguments[:1]) != ["serve"] or "_PENSTOCK_COMPLETE" in os.environ:
        return None
    read = Serve()
    flags = {
        name: (row, name != row.names[0], values)
        for table, values in ((SERVED_ENGINE, read.engine), (SERVER, read.server))
        for row in table.rows
        for name in row.names
    }
    rest = iter(arguments[1:])
    for word in rest:
        name, equals, value = word.partition("=")
        if word == "--offline":
            read.offline = True
        elif word and not word.startswith("-") and read.model is None:
            read.model = word
        elif name not in flags:
            return None
        else:
            row, negated, values = flags[name]
            if row.kind is bool:
                if equals:
                    return None
                values[row.name] = not negated
            elif not _put(row, value if equals else next(rest, ""), values):
                return None
    return read


def _put(row: Flag, text: str, values: dict[str, Any]) -> bool:
    """Keep an option's value; False if it isn't plainly one."""
    if not text or text.startswith("-") or (row.choices and text not in row.choices):
        return False
    if row.kind in _NUMBERS:
        if not _NUMBERS[row.kind].fullmatch(text):
            return False
        values[row.name] = row.kind(text)
    elif row.kind is str:
        values[row.name] = text
    else:
        values.setdefault(row.name, []).append(text)
    return True
