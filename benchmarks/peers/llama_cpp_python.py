"""llama.cpp by the server of its Python package, which answers one request at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from benchmarks.peers.base import Engine, HttpEngine, Peer, Place, free_port
from penstock.lab.bench.engines import llama_cpp as engines
from penstock.lab.bench.engines.process import Child

if TYPE_CHECKING:
    from benchmarks.workload import ModelFiles
    from penstock.lab.bench.engines.environment import Recipe

_END_TOKENS = (0, 2)  # <|endoftext|> and <|im_end|>; its server has no ignore_eos
_CONTEXT = 8192


class LlamaCppPython(Peer):
    name: ClassVar[str] = "llama-cpp-python"
    distribution: ClassVar[str] = "llama_cpp_python"
    engine: ClassVar[engines.LlamaCppPython] = engines.LlamaCppPython()
    packed_weights: ClassVar[bool] = True
    one_at_a_time: ClassVar[bool] = True

    def recipe(self) -> Recipe:
        return self.engine.recipe()

    def launch(self, place: Place, model: ModelFiles) -> Engine:
        port = free_port()
        command = [
            str(self.python(place)), "-m", "llama_cpp.server", "--model", str(model.gguf),
            "--model_alias", "model", "--host", "127.0.0.1", "--port", str(port), "--verbose", "false",
            "--n_ctx", str(_CONTEXT), "--n_threads", str(place.cores), "--n_threads_batch", str(place.cores),
            # By default a new request cuts the running one short.
            "--interrupt_requests", "false",
        ]  # fmt: skip
        return HttpEngine(
            self.name,
            self.installed_version(place),
            {
                "weights": "GGUF blocks",
                "n_ctx": _CONTEXT,
                "n_threads": place.cores,
                "end_of_text": "banned by logit bias",
                "build": self.recipe().build["CMAKE_ARGS"],
            },
            Child(command, place.logs / f"{self.name}.log"),
            port=port,
            takes_ids=False,
            extra={"logit_bias": dict.fromkeys(map(str, _END_TOKENS), -100.0), "top_k": 1},
        )


class LlamaCppPythonAvx2(LlamaCppPython):
    """The same as a processor without AVX-512 would run it."""

    name: ClassVar[str] = "llama-cpp-python-avx2"
    engine: ClassVar[engines.LlamaCppPython] = engines.LlamaCppPythonAvx2()
