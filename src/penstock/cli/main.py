"""The `penstock` command: puts the groups together, and turns every error into one line and an exit code."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.main import get_command

from penstock.cli import chat, generate, models, serve, version
from penstock.cli.help import SETTINGS, HeadedCommand, help_alone
from penstock.core.errors import InvalidRequestError, PenstockError
from penstock.core.suggest import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130  # 128 + SIGINT, as shells have it

app = typer.Typer(
    name="penstock",
    help="Serve open-weight language models on your own machine.\n\n"
    "Start with `penstock serve`, then open http://127.0.0.1:8000 in a browser, or with `penstock chat`.",
    invoke_without_command=True,
    rich_markup_mode=None,  # see cli.help
    pretty_exceptions_enable=False,
    context_settings=SETTINGS,
    suggest_commands=False,  # main() does it, for options and values too
)
app.command("serve", cls=HeadedCommand)(serve.serve)
app.command("chat", cls=HeadedCommand)(chat.chat)
app.command("generate", cls=HeadedCommand)(generate.generate)
app.add_typer(models.app, name="models")
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and give its exit code: 0, an error class's own, or 130 after Ctrl-C."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = get_command(app)(args=given, prog_name="penstock", standalone_mode=False)
    except PenstockError as error:
        return _fail(error, given)
    except typer.TyperException as error:
        return _fail(_usage_error(error), given)
    except typer.Abort:
        return INTERRUPTED
    if code == INTERRUPTED:
        sys.stderr.write("\n")  # the terminal has just echoed ^C
    return code if isinstance(code, int) else 0


def _fail(error: PenstockError, given: Sequence[str]) -> int:
    if "--json" in given:
        body = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
        line = json.dumps({"error": body}, ensure_ascii=False)
    else:
        line = f"Error: {' '.join(error.message.split())}"
    sys.stderr.write(line + "\n")
    return error.exit_code


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
