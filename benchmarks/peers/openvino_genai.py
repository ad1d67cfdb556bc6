"""OpenVINO GenAI's continuous batching pipeline, in the process: it has no server of its own in the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from benchmarks.peers.base import Engine, Peer, PipeEngine, Place
from penstock.lab.bench.engines.process import Child

if TYPE_CHECKING:
    from benchmarks.workload import ModelFiles

DRIVER = Path(__file__).parent / "drivers" / "openvino_driver.py"


class OpenVinoGenAI(Peer):
    name: ClassVar[str] = "openvino-genai"
    requirements: ClassVar[tuple[str, ...]] = ("openvino-genai==2026.4.1.0", "openvino==2026.4.1")
    packed_weights: ClassVar[bool] = True

    def launch(self, place: Place, model: ModelFiles) -> Engine:
        command = [str(self.python(place)), "-P", str(DRIVER), str(model.gguf)]
        return PipeEngine(self.name, Child(command, place.logs / f"{self.name}.log", pipes=True))
