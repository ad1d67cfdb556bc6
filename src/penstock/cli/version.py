"""`penstock version`."""

from __future__ import annotations

import platform
from typing import Annotated

import typer

from penstock.cli.output import say, say_json


def version(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the versions of Penstock and of what it stands on."""
    from importlib import metadata

    import penstock

    found = {"penstock": penstock.__version__, "python": platform.python_version()}
    for package in ("torch", "tokenizers", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    found["platform"] = platform.platform()
    if as_json:
        say_json(found)
        return
    for name, value in found.items():
        say(f"{name:<12}{value}")
