"""OpenVINO GenAI's continuous batching pipeline, behind a server of ours: the package has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from penstock.lab.bench.engines.base import SERVED, Common, Launch, PythonEngine
from penstock.lab.bench.engines.environment import Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.lab.bench.engines.model import ModelForms
    from penstock.lab.bench.engines.place import Place

_SERVER = Path(__file__).parent / "drivers" / "openvino_server.py"


class OpenVinoGenAI(PythonEngine):
    name: ClassVar[str] = "openvino-genai"
    summary: ClassVar[str] = "OpenVINO GenAI's continuous batching, behind a small server of the bench's own"
    distribution: ClassVar[str] = "openvino_genai"
    packed_weights: ClassVar[bool] = True

    def recipe(self) -> Recipe:
        return Recipe(requirements=("openvino-genai==2026.4.1.0", "openvino==2026.4.1"))

    def plan(self, place: Place, model: ModelForms, common: Common, options: Mapping[str, str], port: int) -> Launch:
        scheduler = {
            "enable_prefix_caching": common.prefix_cache,
            "max_num_batched_tokens": common.batch_tokens,
            "max_num_seqs": common.parallel,
        }
        properties = {"INFERENCE_NUM_THREADS": str(common.threads)} if common.threads else {}
        properties |= options
        settings = {"scheduler": scheduler, "properties": properties}
        # -P: the script's folder must not shadow the libraries it imports.
        command = (
            str(self.python(place)),
            "-P",
            str(_SERVER),
            str(model.gguf),
            SERVED,
            str(port),
            json.dumps(settings),
        )
        return Launch(
            command=command, port=port,
            configuration={"weights": "GGUF, as the pipeline's reader converts it", **settings},
            differs=("It has no server: the bench's own stands before it, in the same process.",),
        )  # fmt: skip
