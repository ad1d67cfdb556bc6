"""NVIDIA's TensorRT-LLM, by `trtllm-serve`. One behind Triton is reached by its URL, with the API "generate"."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, ClassVar

from penstock.lab.bench.engines.base import Common, Engine, Launch, flags

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from penstock.lab.bench.engines.model import ModelForms
    from penstock.lab.bench.engines.place import Place

_LAUNCHER = "trtllm-serve"


class TensorRtLlm(Engine):
    name: ClassVar[str] = "tensorrt-llm"
    summary: ClassVar[str] = f"TensorRT-LLM, where {_LAUNCHER} is on the PATH"
    installable: ClassVar[bool] = False
    not_run: ClassVar[str] = (
        f"put {_LAUNCHER} on the PATH (its container has it, and it needs an NVIDIA GPU); the launcher was tried"
        " against a stub alone"
    )

    def install(self, place: Place, say: Callable[[str], None]) -> None:  # noqa: ARG002 - the interface
        """It comes as a container. Raises NotFoundError unless it is here."""
        self.require_installed(place)

    def version(self, place: Place) -> str | None:  # noqa: ARG002 - the interface
        return "unknown" if shutil.which(_LAUNCHER) else None

    def plan(self, place: Place, model: ModelForms, common: Common, options: Mapping[str, str], port: int) -> Launch:
        self.require_installed(place)
        chosen = {
            "max_seq_len": str(common.context),
            "max_batch_size": str(common.parallel),
            "max_num_tokens": str(common.batch_tokens),
            **options,
        }
        api = {"kv_cache_config": {"enable_block_reuse": common.prefix_cache}}
        place.logs.mkdir(parents=True, exist_ok=True)
        extra = place.logs / f"{self.name}-options.yaml"
        extra.write_text(json.dumps(api) + "\n", encoding="utf-8")  # JSON is YAML
        return Launch(
            command=(
                shutil.which(_LAUNCHER) or _LAUNCHER, str(model.safetensors), "--host", "127.0.0.1",
                "--port", str(port), "--extra_llm_api_options", str(extra),
                *flags(chosen),
            ),
            port=port, configuration={"weights": "safetensors", "options": chosen, "llm_api": api},
        )  # fmt: skip
