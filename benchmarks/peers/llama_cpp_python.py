"""llama.cpp by the server of its Python package, which answers one request at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from benchmarks.peers.base import Engine, HttpEngine, Peer, Place, free_port
from penstock.core.machine import fingerprint
from penstock.lab.bench.engines.process import Child

if TYPE_CHECKING:
    from benchmarks.workload import ModelFiles

# CMake option -> the flag of the processor that it needs. AMX stays off: with it on, this version dies of an
# illegal instruction on virtual machines whose processor does offer AMX.
_OPTIONS = {
    "GGML_AVX2": "avx2",
    "GGML_FMA": "fma",
    "GGML_F16C": "f16c",
    "GGML_AVX512": "avx512f",
    "GGML_AVX512_VNNI": "avx512_vnni",
    "GGML_AVX512_BF16": "avx512_bf16",
}
_END_TOKENS = (0, 2)  # <|endoftext|> and <|im_end|>; its server has no ignore_eos
_CONTEXT = 8192


class LlamaCppPython(Peer):
    name: ClassVar[str] = "llama-cpp-python"
    requirements: ClassVar[tuple[str, ...]] = ("llama-cpp-python[server]==0.3.36",)
    packed_weights: ClassVar[bool] = True
    one_at_a_time: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = tuple(_OPTIONS)  # as far as the processor has them

    def build_environment(self) -> dict[str, str]:
        flags = fingerprint().cpu_flags
        on = {option: option in self.options and flag in flags for option, flag in _OPTIONS.items()}
        options = {"GGML_NATIVE": False, **on}
        options |= dict.fromkeys(("GGML_AMX_TILE", "GGML_AMX_INT8", "GGML_AMX_BF16"), False)
        return {"CMAKE_ARGS": " ".join(f"-D{option}={'ON' if on else 'OFF'}" for option, on in options.items())}

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
            self.installed_version(place, "llama_cpp_python"),
            {
                "weights": "GGUF blocks",
                "n_ctx": _CONTEXT,
                "n_threads": place.cores,
                "end_of_text": "banned by logit bias",
                "build": self.build_environment()["CMAKE_ARGS"],
            },
            Child(command, place.logs / f"{self.name}.log"),
            port=port,
            takes_ids=False,
            extra={"logit_bias": dict.fromkeys(map(str, _END_TOKENS), -100.0), "top_k": 1},
        )


class LlamaCppPythonAvx2(LlamaCppPython):
    """The same as a processor without AVX-512 would run it."""

    name: ClassVar[str] = "llama-cpp-python-avx2"
    options: ClassVar[tuple[str, ...]] = ("GGML_AVX2", "GGML_FMA", "GGML_F16C")
