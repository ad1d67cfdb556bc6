"""An engine's own Python environment: made from pinned requirements, kept until the recipe changes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.core.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

STAMP = "installed.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Pinned requirements and how they are built."""

    requirements: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()  # take the place of what a requirement itself demands
    unwanted: tuple[str, ...] = ()  # uninstalled again
    build: Mapping[str, str] = field(default_factory=dict)  # variables of the build

    def stamp(self) -> str:
        """Says whether an environment is this recipe's."""
        return json.dumps([self.requirements, self.overrides, self.unwanted, dict(self.build), sys.version])


def install(name: str, home: Path, logs: Path, recipe: Recipe, say: Callable[[str], None]) -> None:
    """Make the environment if it isn't there as the recipe describes it.

    Raises:
        ConfigError: uv is missing.
        StoreError: the installation failed; the message names its log.
    """
    stamp = home / STAMP
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == recipe.stamp():
        return
    uv, python = find_uv(), str(home / "bin" / "python")
    say(f"{name}: installing {' '.join(recipe.requirements)}")
    home.parent.mkdir(parents=True, exist_ok=True)
    overrides = home.with_name(f"{home.name}.overrides.txt")
    overrides.write_text("\n".join(recipe.overrides), encoding="utf-8")
    fresh = ["--no-cache"] if recipe.build else []  # a cached wheel may have been built in another way
    steps = [
        [uv, "venv", "--clear", "--python", sys.executable, str(home)],
        [uv, "pip", "install", "--python", python, "--override", str(overrides), *fresh, *recipe.requirements],
    ]
    if recipe.unwanted:
        steps.append([uv, "pip", "uninstall", "--python", python, *recipe.unwanted])
    run_steps(name, steps, logs / f"install-{name}.log", recipe.build)
    stamp.write_text(recipe.stamp(), encoding="utf-8")


def run_steps(
    name: str, steps: Sequence[Sequence[str]], log: Path, env: Mapping[str, str], *, cwd: Path | None = None
) -> None:
    """Run commands at the lowest priority, one after the other. Raises StoreError, naming the log, if one fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    nice = shutil.which("nice")
    with log.open("w", encoding="utf-8") as stream:
        for step in steps:
            command = [nice, "-n", "19", *step] if nice else list(step)
            try:
                done = subprocess.run(
                    command, stdout=stream, stderr=stream, env={**os.environ, **env}, cwd=cwd, check=False
                )
            except OSError as error:
                raise StoreError(f"{name} can't be installed: {step[0]}: {error.strerror}.") from error
            if done.returncode:
                raise StoreError(f"{name} could not be installed; see {log}.")


def installed_version(home: Path, distribution: str) -> str | None:
    found = sorted(home.glob(f"lib/python*/site-packages/{distribution}-*.dist-info"))
    return found[0].name.removesuffix(".dist-info").removeprefix(f"{distribution}-") if found else None


def remove(home: Path) -> bool:
    """Delete an engine's folder; whether there was one."""
    home.with_name(f"{home.name}.overrides.txt").unlink(missing_ok=True)
    if not home.is_dir():
        return False
    shutil.rmtree(home)
    return True


def find_uv() -> str:
    """Raises ConfigError if there is none."""
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if not found:
        raise ConfigError("Engines are installed with uv, which is missing: pip install uv.")
    return found
