"""The `penstock` command's entry: turns every error into one line and an exit code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from penstock.cli.plain import read_serve
from penstock.core.errors import PenstockError

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and give its exit code: 0, an error class's own, or 130 after Ctrl-C."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = _run(given)
    except PenstockError as error:
        return _fail(error, given)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        sys.stderr.write("\n")  # the terminal has just echoed ^C
    return code


def _run(given: Sequence[str]) -> int:
    plain = read_serve(given)
    if plain is None:
        from penstock.cli.app import run

        return run(given)
    from penstock.cli.start_server import start_server

    start_server(plain.model, offline=plain.offline, engine=plain.engine, server=plain.server)
    return 0


def _fail(error: PenstockError, given: Sequence[str]) -> int:
    if "--json" in given:
        import json

        body = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
        line = json.dumps({"error": body}, ensure_ascii=False)
    else:
        line = f"Error: {' '.join(error.message.split())}"
    sys.stderr.write(line + "\n")
    return error.exit_code
