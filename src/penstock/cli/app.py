"""The `penstock` command as Typer knows it: the groups put together, and mistakes in the command line explained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.main import get_command

from penstock.cli import bench, chat, generate, journal, models, serve, version
from penstock.cli.help import SETTINGS, HeadedCommand, help_alone
from penstock.core.errors import InvalidRequestError
from penstock.core.suggest import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(
    name="penstock",
    help="Serve open-weight language models on your own machine.\n\n"
    "Start with `penstock serve`, then open http://127.0.0.1:8000 in a browser, or with `penstock chat`.",
    invoke_without_command=True,
    rich_markup_mode=None,  # see cli.help
    pretty_exceptions_enable=False,
    context_settings=SETTINGS,
    suggest_commands=False,  # _usage_error does it, for options and values too
)
app.command("serve", cls=HeadedCommand)(serve.serve)
app.command("chat", cls=HeadedCommand)(chat.chat)
app.command("generate", cls=HeadedCommand)(generate.generate)
app.add_typer(models.app, name="models")
app.add_typer(bench.app, name="bench")
app.add_typer(journal.app, name="journal")
app.command("version")(version.version)


def _print_version(wanted: bool) -> None:
    if wanted:
        version.version(as_json=False)
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    _: Annotated[
        bool, typer.Option("--version", help="Show the versions and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Only --version; each command does its own work."""
    help_alone(context)


def run(arguments: Sequence[str]) -> int:
    """Run the command that the arguments name; its exit code. Raises PenstockError."""
    try:
        code = get_command(app)(args=list(arguments), prog_name="penstock", standalone_mode=False)
    except typer.TyperException as error:
        raise _usage_error(error) from error
    except typer.Abort:
        raise KeyboardInterrupt from None
    return code if isinstance(code, int) else 0


def _usage_error(error: typer.TyperException) -> InvalidRequestError:
    """A mistake in the command line, with the nearest right word and where to read on."""
    context: Any = getattr(error, "ctx", None)
    message = error.message if getattr(error, "option_name", None) else error.format_message()
    message = message.strip().rstrip(".") if not message.rstrip().endswith("?") else message.strip()
    wrong, known = _wrong_word(error, context)
    hint = did_you_mean(wrong, known) if wrong else ""
    path = context.command_path if context is not None else "penstock"
    ending = "" if message.endswith("?") else "."
    return InvalidRequestError(f"{message}{ending}{hint} See {path} --help.", param=wrong or None, code="usage")


def _wrong_word(error: typer.TyperException, context: Any) -> tuple[str, list[str]]:
    """What was mistyped, and the words that could have stood there."""
    option = getattr(error, "option_name", None)
    if option and context is not None:
        return option, [name for param in context.command.params for name in (*param.opts, *param.secondary_opts)]
    commands = getattr(getattr(context, "command", None), "commands", None)
    if commands and error.message.startswith("No such command"):
        return error.message.split("'")[1], list(commands)
    return "", []
