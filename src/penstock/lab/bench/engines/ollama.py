"""Ollama's own server, built from Go's module proxy for the vector units of this processor."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from typing import TYPE_CHECKING, ClassVar

from penstock.core.errors import ConfigError, EngineDeadError
from penstock.core.machine import fingerprint
from penstock.lab.bench.engines.base import SERVED, Common, Engine, Launch
from penstock.lab.bench.engines.environment import STAMP, run_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from penstock.lab.bench.engines.model import ModelForms
    from penstock.lab.bench.engines.place import Place

VERSION = "0.9.6"  # of newer ones the proxy's archive lacks a header
_PACKAGE = f"github.com/ollama/ollama@v{VERSION}"
# The processor's flag -> what the C compiler is told. Without any, cgo builds for the oldest 64-bit processor, and the
# server is several times too slow. AMX stays off, as for llama.cpp.
_VECTOR_UNITS = {
    "avx2": "-mavx2",
    "fma": "-mfma",
    "f16c": "-mf16c",
    "avx512f": "-mavx512f -mavx512cd -mavx512dq",
    "avx512bw": "-mavx512bw",
    "avx512vl": "-mavx512vl",
    "avx512_vnni": "-mavx512vnni",
    "avx512_bf16": "-mavx512bf16",
}
_CREATE_TIMEOUT_S = 600.0


class Ollama(Engine):
    name: ClassVar[str] = "ollama"
    summary: ClassVar[str] = f"Ollama {VERSION}; built here, with Go and a C++ compiler"
    packed_weights: ClassVar[bool] = True

    def build_environment(self) -> dict[str, str]:
        """Variables of the build that decide how fast it will be."""
        if platform.machine() in ("x86_64", "AMD64"):
            units = " ".join(flag for unit, flag in _VECTOR_UNITS.items() if unit in fingerprint().cpu_flags)
        else:
            units = "-mcpu=native"
        return {"CGO_ENABLED": "1", "CGO_CFLAGS": f"-O3 {units}".strip(), "CGO_CXXFLAGS": f"-O3 {units}".strip()}

    def install(self, place: Place, say: Callable[[str], None]) -> None:
        """Raises ConfigError without a Go toolchain, StoreError if the build fails."""
        if self.version(place) is not None:
            return
        go = shutil.which("go")
        if go is None:
            raise ConfigError("Ollama is built with Go 1.24 or newer, which is missing: apt-get install golang-go.")
        say(f"ollama: building {_PACKAGE}, some minutes")
        home = self.home(place)
        shutil.rmtree(home, ignore_errors=True)
        (home / "bin").mkdir(parents=True)
        words = f"-s -w -X=github.com/ollama/ollama/version.Version={VERSION}"
        mode = "-X=github.com/ollama/ollama/server.mode=release"
        command = [go, "install", "-trimpath", "-ldflags", f"{words} {mode}", _PACKAGE]
        build = self.build_environment()
        run_steps(self.name, [command], place.logs / "install-ollama.log", build | {"GOBIN": str(home / "bin")})
        told = {
            "version": VERSION,
            "build": build,
            "go": _first_line(go, "version"),
            "cc": _first_line("cc", "--version"),
        }
        (home / STAMP).write_text(json.dumps(told), encoding="utf-8")

    def version(self, place: Place) -> str | None:
        built = self._built(place)
        return VERSION if built.get("version") == VERSION and built.get("build") == self.build_environment() else None

    def _built(self, place: Place) -> dict[str, object]:
        try:
            read = json.loads((self.home(place) / STAMP).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return read if isinstance(read, dict) else {}

    def plan(self, place: Place, model: ModelForms, common: Common, options: Mapping[str, str], port: int) -> Launch:
        home = self.home(place)
        parameters = {"num_ctx": str(common.context), "num_batch": str(common.batch_tokens), "temperature": "0"}
        if common.threads:
            parameters["num_thread"] = str(common.threads)
        parameters |= options
        settings = {
            "OLLAMA_NUM_PARALLEL": str(common.parallel),
            "OLLAMA_CONTEXT_LENGTH": str(common.context),
            "OLLAMA_MAX_QUEUE": "65536",  # by default it refuses what waits behind 512 others
            "OLLAMA_KEEP_ALIVE": "-1",
        }
        env = {
            **settings,
            "OLLAMA_HOST": f"127.0.0.1:{port}", "OLLAMA_MODELS": str(home / "models"), "OLLAMA_NOPRUNE": "1",
            "HOME": str(home),  # it makes itself a key there
        }  # fmt: skip
        program = home / "bin" / "ollama"
        differs = [
            "It can't ignore the end of text: answers may be shorter than asked for. Compare tokens/s and times per"
            " token rather than whole requests.",
            "It tells no context apart for each request: its KV cache is taken for all of them at once.",
        ]
        if not common.prefix_cache:
            differs.append("It keeps each slot's last prompt: one that begins like it is quicker.")

        def create() -> None:
            file = home / "Modelfile"
            # Completions go to the model as they are; conversations through the template that Ollama finds in the file.
            template = 'TEMPLATE """{{ .Prompt }}"""\n' if common.api == "completions" else ""
            lines = "".join(f"PARAMETER {name} {value}\n" for name, value in parameters.items())
            file.write_text(f"FROM {model.gguf}\n{template}{lines}", encoding="utf-8")
            _create(program, file, env)

        return Launch(
            command=(str(program), "serve"), port=port, env=env, prepare=create, ignore_eos=False,
            configuration={
                "weights": "GGUF blocks", "options": parameters, "environment": settings, "build": self._built(place),
            },
            differs=tuple(differs),
        )  # fmt: skip


def _create(program: Path, file: Path, env: Mapping[str, str]) -> None:
    command = [str(program), "create", SERVED, "-f", str(file)]
    done = subprocess.run(
        command, env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=_CREATE_TIMEOUT_S
    )
    if done.returncode:
        raise EngineDeadError(f"Ollama refuses the model: {' '.join(done.stderr.split())[-500:]}")


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.split("\n", 1)[0]
