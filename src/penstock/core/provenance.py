"""Where a measurement comes from, beyond its machine and its commit: the command, and what was installed."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Options whose values must not get into a file that is shown around, and those that say where results go.
_SECRETS = ("--api-key", "--header", "-H", "--hf-token", "--token")
_PLACES = ("--out",)


def package_versions(*more: str) -> dict[str, str]:
    """The versions of Penstock, of what it requires (extras too, where installed), and of the distributions `more`."""
    names = {"penstock", *more}
    try:
        names |= {re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in requires("penstock") or ()}
    except PackageNotFoundError:  # run from a folder on the path, without being installed
        names.discard("penstock")
    return dict(_installed(sorted(names)))


def command_of(arguments: Iterable[str]) -> tuple[str, ...]:
    """A command line fit for a record: without secrets, and without where its results went.

    >>> command_of(["penstock", "bench", "run", "--out", "here", "--api-key=k", "--seed", "7"])
    ('penstock', 'bench', 'run', '--seed', '7')
    """
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, _ = argument.partition("=")
        if name not in _SECRETS + _PLACES:
            kept.append(argument)
        elif not equals:
            next(rest, None)
    return tuple(kept)


def _installed(names: Iterable[str]) -> Iterable[tuple[str, str]]:
    for name in names:
        try:
            yield name, version(name)
        except PackageNotFoundError:  # of an extra that isn't here
            continue
