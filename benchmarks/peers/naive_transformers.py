"""Transformers as a first script uses it: `generate`, one request after another, in the process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from benchmarks.peers.base import Engine, Peer, PipeEngine, Place
from penstock.lab.bench.engines.model import CONVERTER
from penstock.lab.bench.engines.process import Child

if TYPE_CHECKING:
    from benchmarks.workload import ModelFiles
    from penstock.lab.bench.engines.environment import Recipe

DRIVER = Path(__file__).parent / "drivers" / "transformers_driver.py"


class NaiveTransformers(Peer):
    name: ClassVar[str] = "transformers"
    distribution: ClassVar[str] = "transformers"
    one_at_a_time: ClassVar[bool] = True

    def recipe(self) -> Recipe:
        """Also what makes the safetensors that this peer and vLLM read."""
        return CONVERTER

    def launch(self, place: Place, model: ModelFiles) -> Engine:
        # -P: the script's folder must not shadow the libraries it imports.
        command = [str(self.python(place)), "-P", str(DRIVER), str(model.safetensors)]
        log = place.logs / f"{self.name}.log"
        env = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        return PipeEngine(self.name, Child(command, log, env=env, pipes=True))
