"""Typer's side of the flag tables: puts them into a command's signature."""

from __future__ import annotations

import inspect
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.core.suggest import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.cli.flags import Flag, Flags


def takes(**tables: Flags) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the flags of `tables`; it gets those that were given as a dict under each table's name."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name not in tables]
        added = [_parameter(row, table.panel) for table in tables.values() for row in table.rows]

        @wraps(command)
        def wrapper(**values: Any) -> Any:
            groups = {name: {row.name: values.pop(row.name) for row in table.rows} for name, table in tables.items()}
            given = {name: {k: v for k, v in group.items() if v not in (None, [])} for name, group in groups.items()}
            return command(**values, **given)

        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + added
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapper

    return decorate


def _parameter(flag: Flag, panel: str) -> inspect.Parameter:
    """For a command's signature; None when the flag is not given."""
    option = typer.Option(
        flag.declaration,
        help=f"{flag.help} [default: {flag.default}]" if flag.default else flag.help,
        show_default=False,
        metavar="|".join(flag.choices) or flag.metavar,
        parser=one_of(*flag.choices) if flag.choices else None,
        autocompletion=(lambda: list(flag.choices)) if flag.choices else None,
        rich_help_panel=panel,
    )
    annotation = Annotated.__class_getitem__((flag.kind | None, option))  # type: ignore[attr-defined]
    return inspect.Parameter(flag.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def one_of(*choices: str) -> Callable[[str], str]:
    """A parser that takes these words only, and names the nearest for another."""

    def parse(value: str) -> str:
        if value in choices:
            return value
        raise typer.BadParameter(f"{value!r} is none of {', '.join(choices)}.{did_you_mean(value, choices)}")

    return parse


def complete_models(incomplete: str) -> list[tuple[str, str]]:
    """Names for the shell to complete: those in the store, and those that can be pulled by a short name."""
    from penstock.models.store import CATALOG, list_models

    names = {model.name: "in the store" for model in list_models()}
    names = {name: model.description for name, model in CATALOG.items()} | names
    return [(name, words) for name, words in sorted(names.items()) if name.startswith(incomplete)]
