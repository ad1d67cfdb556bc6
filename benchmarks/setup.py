"""Make ready what a run needs: the peers' environments and the model in both forms."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.errors import BenchmarkError
from benchmarks.peers import PEERS, Place
from benchmarks.workload import ModelFiles
from penstock.models.store import DEFAULT_MODEL, resolve

if TYPE_CHECKING:
    from collections.abc import Sequence

_CONVERTER = Path(__file__).parent / "peers" / "drivers" / "convert_model.py"


def install(place: Place, names: Sequence[str]) -> None:
    """Make the environments of these peers, and of transformers, which also converts the model."""
    for name in dict.fromkeys(["transformers", *names]):
        PEERS[name].install(place)


def prepare_model(place: Place, gguf: Path | None) -> ModelFiles:
    """The default model from Penstock's store unless a GGUF is given, and safetensors made from it once."""
    source = (gguf or resolve(DEFAULT_MODEL)).absolute()
    if not source.is_file():
        raise BenchmarkError(f"There is no model file {source}; fetch the default one with `penstock models pull`.")
    target = place.venvs / "models" / f"{source.stem}-{source.stat().st_size}-bfloat16"
    if not target.is_dir():
        _convert(place, source, target)
    return ModelFiles(source, target)


def _convert(place: Place, source: Path, target: Path) -> None:
    print(f"converting {source.name} to bfloat16 safetensors", flush=True)
    unfinished = target.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    log = place.logs / "convert.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [str(PEERS["transformers"].python(place)), "-P", str(_CONVERTER), str(source), str(unfinished)]
    with log.open("w", encoding="utf-8") as stream:
        if subprocess.run(command, stdout=stream, stderr=stream, check=False).returncode:
            raise BenchmarkError(f"{source} could not be converted; see {log}.")
    unfinished.rename(target)
