"""OpenVINO GenAI's continuous batching pipeline, in the process: it has no server of its own in the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from benchmarks.peers.base import Engine, Peer, PipeEngine, Place
from penstock.lab.bench.engines import openvino
from penstock.lab.bench.engines.process import Child

if TYPE_CHECKING:
    from benchmarks.workload import ModelFiles
    from penstock.lab.bench.engines.environment import Recipe

DRIVER = Path(__file__).parent / "drivers" / "openvino_driver.py"


class OpenVinoGenAI(Peer):
    name: ClassVar[str] = "openvino-genai"
    distribution: ClassVar[str] = "openvino_genai"
    packed_weights: ClassVar[bool] = True

    def recipe(self) -> Recipe:
        return openvino.OpenVinoGenAI().recipe()

    def launch(self, place: Place, model: ModelFiles) -> Engine:
        command = [str(self.python(place)), "-P", str(DRIVER), str(model.gguf)]
        return PipeEngine(self.name, Child(command, place.logs / f"{self.name}.log", pipes=True))
