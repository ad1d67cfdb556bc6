"""`python -m benchmarks.load`: see README.md of benchmarks."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.load.added import agree, measure
from benchmarks.load.clients import CLIENTS, Asked
from penstock.core.errors import PenstockError
from penstock.core.paths import cache_dir
from penstock.lab.bench.engines.environment import find_uv

_RECORDS = Path(__file__).parents[1] / "records" / "load"


def main() -> int:
    arguments = _parser().parse_args()
    try:
        return int(arguments.run(arguments) or 0)
    except (BenchmarkError, PenstockError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1


def _install(arguments: argparse.Namespace) -> None:
    for client in CLIENTS.values():
        if client.requirements:
            home = arguments.venvs / client.home
            if not client.python(arguments.venvs).is_file():
                subprocess.run([find_uv(), "venv", "--python", sys.executable, str(home)], check=True)
            python = str(client.python(arguments.venvs))
            subprocess.run([find_uv(), "pip", "install", "--python", python, *client.requirements], check=True)


def _added(arguments: argparse.Namespace) -> None:
    measure(
        arguments.clients, arguments.rates, arguments.seconds, arguments.rounds, arguments.tokens, arguments.venvs,
        arguments.tokenizer or _tokenizer(arguments.venvs), arguments.out,
    )  # fmt: skip


def _agree(arguments: argparse.Namespace) -> int:
    asked = Asked(
        arguments.url, arguments.model, arguments.tokenizer or _tokenizer(arguments.venvs), arguments.rate,
        arguments.requests, arguments.tokens, arguments.prompt_tokens, metrics=True,
    )  # fmt: skip
    within = agree(asked, arguments.rounds, arguments.venvs, arguments.out)
    return 0 if within else 1


def _tokenizer(venvs: Path) -> Path:
    found = sorted((venvs / "models").glob("*/tokenizer.json"))
    if not found:
        raise BenchmarkError(f"There is no tokenizer in {venvs / 'models'}: run `python -m benchmarks install` first.")
    return found[0].parent


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--venvs", type=Path, default=cache_dir() / "peers", help="where the other tools live")
    common.add_argument("--tokenizer", type=Path, help="a folder that the other tools take a tokenizer from")
    common.add_argument("--out", type=Path, default=_RECORDS, help="the folder of the records")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    commands = parser.add_subparsers(required=True)
    commands.add_parser("install", parents=[common], help="the other load generators").set_defaults(run=_install)
    added = commands.add_parser("added", parents=[common], help="what each adds to the stub's delays, on one core")
    added.add_argument("--clients", nargs="+", choices=CLIENTS, default=list(CLIENTS))
    added.add_argument(
        "--rates", nargs="+", type=float, default=[25, 100, 400], help="requests/s of 50 tokens, 5 s each"
    )
    added.add_argument("--seconds", type=float, default=20.0)
    added.add_argument("--rounds", type=int, default=3)
    added.add_argument("--tokens", type=int, default=50)
    added.set_defaults(run=_added)
    agreement = commands.add_parser("agree", parents=[common], help="with guidellm, on a server that is up")
    agreement.add_argument("url")
    agreement.add_argument("--model", default="smollm2")
    agreement.add_argument("--rate", type=float, default=0.5)
    agreement.add_argument("--requests", type=int, default=30)
    agreement.add_argument("--rounds", type=int, default=2)
    agreement.add_argument("--prompt-tokens", type=int, default=256)
    agreement.add_argument("--tokens", type=int, default=64)
    agreement.set_defaults(run=_agree)
    return parser


if __name__ == "__main__":
    sys.exit(main())
