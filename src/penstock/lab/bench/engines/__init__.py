"""Engines that can be started, measured and stopped: one file each, and what all of them share.

`environment` installs one beside this Python, never into it; `running` starts it and waits until it answers; `process`
weighs and ends it. What engines are given alike is `base.Common`; what can't be made alike each of them says itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.core.errors import NotFoundError
from penstock.core.suggest import did_you_mean
from penstock.lab.bench.engines.base import Common, Engine, Launch
from penstock.lab.bench.engines.llama_cpp import LlamaCppPython, LlamaServer
from penstock.lab.bench.engines.ollama import Ollama
from penstock.lab.bench.engines.openvino import OpenVinoGenAI
from penstock.lab.bench.engines.penstock import Penstock
from penstock.lab.bench.engines.place import Place
from penstock.lab.bench.engines.tensorrt_llm import TensorRtLlm
from penstock.lab.bench.engines.tgi import Tgi
from penstock.lab.bench.engines.vllm import VllmCpu, VllmCpuAllCores

if TYPE_CHECKING:
    from collections.abc import Mapping

ENGINES: Mapping[str, Engine] = {
    engine.name: engine
    for engine in (
        Penstock(), VllmCpu(), VllmCpuAllCores(), LlamaServer(), LlamaCppPython(), Ollama(), OpenVinoGenAI(), Tgi(),
        TensorRtLlm(),
    )
}  # fmt: skip


def find(name: str) -> Engine:
    """Raises NotFoundError, with the names there are."""
    if name not in ENGINES:
        known = ", ".join(ENGINES)
        raise NotFoundError(f"There is no engine {name!r}.{did_you_mean(name, list(ENGINES))} There are {known}.")
    return ENGINES[name]


__all__ = ["ENGINES", "Common", "Engine", "Launch", "Place", "find"]
