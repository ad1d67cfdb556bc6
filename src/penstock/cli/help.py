"""How the help of a command with many options reads: under headings, each option's name whole."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

from penstock.core.errors import InvalidRequestError

# Rich's panels cut long option names to fit their columns; plain text wraps.
SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def help_alone(context: typer.Context) -> None:
    """Runs before a group's command, and shows the help when there is none."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(InvalidRequestError.exit_code)


class HeadedCommand(TyperCommand):
    """Lists options under the headings that their `rich_help_panel` names."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            plain = "Arguments" if param.param_type_name == "argument" else "Options"
            heading = getattr(param, "rich_help_panel", None) or plain
            sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
