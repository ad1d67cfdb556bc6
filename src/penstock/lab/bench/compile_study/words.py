"""How what a compiler did is told: without the folders of this machine, and sorted by what it means."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.lab.bench.compile_study.trial import Answer, Compilation


def where(file: str) -> str:
    """A source file's name from its package on: "penstock/engine/runners/torch/decoder.py"."""
    parts = Path(file).parts
    for root in ("site-packages", "src"):
        if root in parts:
            last = len(parts) - 1 - parts[::-1].index(root)
            return "/".join(parts[last + 1 :])
    return Path(file).name


def recompiled(answer: Answer) -> list[Compilation]:
    """Code that was there and was compiled again, for another shape or structure of its inputs."""
    return [each for each in answer.compilations if each.reason and not each.failure]


def broken(answer: Answer) -> list[Compilation]:
    """Code that the compiler gave up, and that runs as it is written."""
    return [each for each in answer.compilations if each.failure]
