"""llama.cpp: its own server, and that of its Python package, which answers one request at a time.

Both are built from the Python package's sources, which hold llama.cpp whole.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar

from penstock.core.errors import NotFoundError
from penstock.core.limits import usable_cpus
from penstock.core.machine import fingerprint
from penstock.lab.bench.engines.base import SERVED, Common, Launch, PythonEngine, flags
from penstock.lab.bench.engines.environment import Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from penstock.lab.bench.engines.model import ModelForms
    from penstock.lab.bench.engines.place import Place

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
_VERSION = "0.3.36"
# Its server with the program that starts it, and without what is no part of answering: a page, TLS, pictures.
_SERVER = {
    "LLAMA_BUILD_TOOLS": True, "LLAMA_BUILD_SERVER": True, "LLAMA_TOOLS_INSTALL": True, "LLAVA_BUILD": False,
    "LLAMA_BUILD_UI": False, "LLAMA_USE_PREBUILT_UI": False, "LLAMA_OPENSSL": False,
}  # fmt: skip


def _arguments(units: tuple[str, ...], further: Mapping[str, bool]) -> str:
    """For CMake: those vector units of `units` that the processor has."""
    has = fingerprint().cpu_flags
    options = {"GGML_NATIVE": False, **{option: option in units and flag in has for option, flag in _OPTIONS.items()}}
    options |= dict.fromkeys(("GGML_AMX_TILE", "GGML_AMX_INT8", "GGML_AMX_BF16"), False)
    return " ".join(f"-D{option}={'ON' if on else 'OFF'}" for option, on in {**options, **further}.items())


class LlamaServer(PythonEngine):
    """llama-server, with as many slots as the others compute requests at a time."""

    name: ClassVar[str] = "llama-server"
    summary: ClassVar[str] = "llama.cpp's own server; built here, with CMake and a C++ compiler"
    distribution: ClassVar[str] = "llama_cpp_python"
    packed_weights: ClassVar[bool] = True

    def recipe(self) -> Recipe:
        arguments = _arguments(tuple(_OPTIONS), _SERVER)
        return Recipe(requirements=(f"llama-cpp-python=={_VERSION}",), build={"CMAKE_ARGS": arguments})

    def _packages(self, place: Place) -> Path | None:
        """The folder that its bin/ and lib/ lie in."""
        found = sorted(self.home(place).glob("lib/python*/site-packages/bin/llama-server"))
        return found[0].parent.parent if found else None

    def version(self, place: Place) -> str | None:
        """Its sources tell no version of their own."""
        package = super().version(place)
        return f"of llama-cpp-python {package}" if package and self._packages(place) else None

    def plan(self, place: Place, model: ModelForms, common: Common, options: Mapping[str, str], port: int) -> Launch:
        packages = self._packages(place)
        if packages is None:
            raise NotFoundError(
                f"{self.name} is not installed: penstock bench engines install {self.name}.", param="engine"
            )
        threads = str(common.threads or usable_cpus())
        chosen = {
            "ctx-size": str(common.context * common.parallel),  # which it divides among its slots
            "parallel": str(common.parallel), "batch-size": str(common.batch_tokens),
            "threads": threads, "threads-batch": threads,
            **({} if common.prefix_cache else {"no-cache-prompt": "", "cache-ram": "0"}),
            **options,
        }  # fmt: skip
        libraries = (str(packages / "lib"), os.environ.get("LD_LIBRARY_PATH"))
        return Launch(
            command=(
                str(packages / "bin" / "llama-server"), "--model", str(model.gguf), "--alias", SERVED,
                "--host", "127.0.0.1", "--port", str(port), "--metrics", "--offline", *flags(chosen),
            ),
            port=port, env={"LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries))},
            configuration={
                "weights": "GGUF blocks", "options": chosen, "build": self.recipe().build["CMAKE_ARGS"],
            },
        )  # fmt: skip


class LlamaCppPython(PythonEngine):
    name: ClassVar[str] = "llama-cpp-python"
    summary: ClassVar[str] = "llama.cpp by the server of its Python package; built here"
    distribution: ClassVar[str] = "llama_cpp_python"
    packed_weights: ClassVar[bool] = True
    one_at_a_time: ClassVar[bool] = True
    build_options: ClassVar[tuple[str, ...]] = tuple(_OPTIONS)  # as far as the processor has them

    def recipe(self) -> Recipe:
        arguments = _arguments(self.build_options, {})
        return Recipe(requirements=(f"llama-cpp-python[server]=={_VERSION}",), build={"CMAKE_ARGS": arguments})

    def plan(self, place: Place, model: ModelForms, common: Common, options: Mapping[str, str], port: int) -> Launch:
        # By itself it takes half of the processors that it sees.
        threads = str(common.threads or usable_cpus())
        chosen = {"n_ctx": str(common.context), "n_threads": threads, "n_threads_batch": threads}
        chosen |= {"n_batch": str(min(common.batch_tokens, common.context)), **options}
        differs = [
            "Its server can't ignore the end of text: special tokens are banned by logit_bias, so that answers have"
            " the length asked for, and sampling pays for it."
        ]
        if common.parallel > 1:
            differs.append(f"It answers one request at a time, not {common.parallel}.")
        if not common.prefix_cache:
            differs.append("It keeps the last prompt's keys and values: one that begins like it is quicker.")
        return Launch(
            command=(
                str(self.python(place)), "-m", "llama_cpp.server", "--model", str(model.gguf),
                "--model_alias", SERVED, "--host", "127.0.0.1", "--port", str(port), "--verbose", "false",
                # By default a new request cuts the running one short.
                "--interrupt_requests", "false",
                *(part for name, value in chosen.items() for part in (f"--{name}", value)),
            ),
            port=port,
            configuration={
                "weights": "GGUF blocks", "options": chosen, "parallel": 1, "build": self.recipe().build["CMAKE_ARGS"],
            },
            differs=tuple(differs), ignore_eos=False, takes_numbers=False,
            body={"logit_bias": dict.fromkeys(map(str, model.control_tokens), -100.0)},
        )  # fmt: skip


class LlamaCppPythonAvx2(LlamaCppPython):
    """The same as a processor without AVX-512 would run it; for comparisons of kernels, not of servers."""

    name: ClassVar[str] = "llama-cpp-python-avx2"
    summary: ClassVar[str] = "the same, built for AVX2 alone"
    build_options: ClassVar[tuple[str, ...]] = ("GGML_AVX2", "GGML_FMA", "GGML_F16C")
