"""Make ready what a run needs: the peers' environments and the model in both forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.errors import BenchmarkError
from benchmarks.peers import PEERS, Place
from benchmarks.workload import ModelFiles
from penstock.lab.bench import engines
from penstock.lab.bench.engines.model import ModelForms
from penstock.models.store import DEFAULT_MODEL, resolve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def install(place: Place, names: Sequence[str]) -> None:
    """Make the environments of these peers, and of transformers, which also converts the model."""
    for name in dict.fromkeys(["transformers", *names]):
        PEERS[name].install(place)


def prepare_model(place: Place, gguf: Path | None) -> ModelFiles:
    """The default model from Penstock's store unless a GGUF is given, and safetensors made from it once."""
    source = (gguf or resolve(DEFAULT_MODEL)).absolute()
    if not source.is_file():
        raise BenchmarkError(f"There is no model file {source}; fetch the default one with `penstock models pull`.")
    forms = ModelForms(source, engines.Place(place.venvs, place.logs), lambda line: print(line, flush=True))
    return ModelFiles(source, forms.safetensors)
