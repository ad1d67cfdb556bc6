"""`penstock models`: what is on this machine, and how it gets there."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli.help import help_alone
from penstock.cli.options import complete_models
from penstock.cli.output import PullBar, note, say, say_json, table
from penstock.core.sizes import format_size

app = typer.Typer(callback=help_alone, invoke_without_command=True, help="List, pull, show, check and remove models.")

Name = Annotated[
    str, typer.Argument(help="The model's name, as penstock models list shows it.", autocompletion=complete_models)
]
NameOrPath = Annotated[str, typer.Argument(help="A model's name, or a path to one.", autocompletion=complete_models)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the models in the store, and the names that can be pulled."""
    from penstock.models.store import CATALOG, list_models

    stored = list_models()
    missing = [model for name, model in CATALOG.items() if name not in {s.name for s in stored}]
    if as_json:
        available = [{"name": m.name, "description": m.description, "license": m.license} for m in missing]
        say_json({"models": [model.as_dict() for model in stored], "available": available})
        return
    rows = [[m.name, format_size(m.size), m.problem or m.manifest.source if m.manifest else str(m.problem)]
            for m in stored]  # fmt: skip
    if rows:
        table(["NAME", "SIZE", "FROM"], rows)
    for model in missing:
        note(f"Not here yet: {model.name} ({model.description}). Fetch it: penstock models pull {model.name}")


@app.command()
def pull(
    name: Annotated[
        str,
        typer.Argument(
            help="A short name (smollm2), or hf:owner/name with :Q4_K_M after it to choose a quantization.",
            autocompletion=complete_models,
        ),
    ],
    offline: Annotated[bool, typer.Option("--offline", help="Fail rather than use the network.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Fetch it again even if it is here.")] = False,
    as_json: Json = False,
) -> None:
    """Fetch a model into the store and check it.

    An interrupted pull leaves nothing half-made; files of a hub's model that came whole are kept for the next try.

    Examples:

    \b
      penstock models pull smollm2
      penstock models pull hf:owner/name:Q4_K_M
    """
    from penstock.models import store

    with PullBar() as bar:
        model = store.pull(name, offline=offline or None, progress=bar, replace=force)
    if as_json:
        say_json(model.as_dict())
    else:
        say(f"{model.name}: {format_size(model.size)} at {model.path}")


@app.command()
def show(name: NameOrPath, as_json: Json = False) -> None:
    """Show what a model is, where it lies and where it came from."""
    from penstock.models.encoder_spec import EncoderSpec
    from penstock.models.store.describe import describe

    described = describe(name)
    if as_json:
        say_json(described.as_dict())
        return
    facts: dict[str, object] = {"path": described.path}
    if (stored := described.stored) is not None:
        facts = {"name": stored.name, "problem": stored.problem, **facts, "size": format_size(stored.size)}
        if (manifest := stored.manifest) is not None:
            facts |= {"source": manifest.source, "license": manifest.license, "pulled": manifest.pulled_at}
            facts |= {f"sha256 of {file.path}": file.sha256 for file in manifest.files}
    spec = described.spec
    if isinstance(spec, EncoderSpec):
        facts |= {"model": f"{spec.name}, {spec.architecture} {spec.kind}", "context": f"{spec.max_length} tokens"}
    elif spec is not None:
        facts |= {
            "model": f"{spec.name}, {spec.architecture}, {spec.parameters / 1e6:.1f} M parameters, {spec.quantization}",
            "context": f"{spec.context_length} tokens",
        }
    for key, value in facts.items():
        if value:
            say(f"{key}: {value}")


@app.command("rm")
def remove(name: Name, as_json: Json = False) -> None:
    """Delete a model from the store.

    A running engine that uses it keeps its files until it stops. What the native runner packed of it goes too.
    """
    from contextlib import suppress

    from penstock.engine.runners.packed import remove_outdated
    from penstock.models import store

    model = store.remove(name)
    with suppress(OSError):  # the next start that packs a model tries again
        remove_outdated()
    if as_json:
        say_json({"removed": model.name, "size": model.size})
    else:
        say(f"Removed {model.name} ({format_size(model.size)}).")


@app.command()
def verify(name: NameOrPath, as_json: Json = False) -> None:
    """Check that a model is whole.

    Compares the SHA-256 of its files where it is known, and reads its structure. The exit code is 0 if it is sound
    and 8 if it is not.
    """
    from penstock.core.errors import StoreError
    from penstock.models.store.check import verify as check

    with PullBar() as bar:
        result = check(name, bar)
    if as_json:
        say_json(result.as_dict())
    elif result.ok:
        hashes = f"{result.hashed_files} checksums and " if result.hashed_files else ""
        say(f"{result.name} is sound: {hashes}its structure fit.")
    else:
        for problem in result.problems:
            say(f"{result.name}: {problem}")
    if not result.ok:
        raise typer.Exit(StoreError.exit_code)
