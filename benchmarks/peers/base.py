"""What every peer has: an environment of its own, a way to start, and a way to be asked."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.client import Answer, Post, burst
from benchmarks.errors import BenchmarkError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.workload import ModelFiles, Prompt
    from penstock.lab.bench.engines.process import Child

_READY_TIMEOUT_S = 900.0
_RETRY_S = 0.01


@dataclass(frozen=True, slots=True)
class Place:
    """Where things are and how much of the machine a peer may use."""

    venvs: Path  # one virtual environment a peer
    logs: Path
    cores: int


class Engine(ABC):
    """A peer that is up."""

    def __init__(self, name: str, version: str, configuration: Mapping[str, Any], child: Child) -> None:
        self.name = name
        self.version = version
        self.configuration = dict(configuration)
        self.child = child
        self.ready_seconds = 0.0  # from being spawned to the first answer

    @abstractmethod
    def generate(self, prompts: Sequence[Prompt], max_tokens: int) -> list[Answer]:
        """Greedy completions of exactly `max_tokens` tokens, all asked for at once."""

    def wait_until_ready(self, probe: Prompt) -> None:
        """Ask until it answers. Raises BenchmarkError if it ends or takes a quarter of an hour."""
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while True:
            try:
                self.generate([probe], 2)
            except (BenchmarkError, OSError) as error:
                self.child.check_alive()
                if time.monotonic() > deadline:
                    raise BenchmarkError(
                        f"{self.name} was not ready after {_READY_TIMEOUT_S:.0f} s: {error}"
                    ) from error
                time.sleep(_RETRY_S)
            else:
                self.ready_seconds = time.monotonic() - self.child.spawned
                return

    def stop(self) -> None:
        self.child.stop()


class HttpEngine(Engine):
    """A peer behind an OpenAI-style completions endpoint."""

    def __init__(
        self,
        name: str,
        version: str,
        configuration: Mapping[str, Any],
        child: Child,
        *,
        port: int,
        takes_ids: bool,
        extra: Mapping[str, Any],
    ) -> None:
        super().__init__(name, version, configuration, child)
        self.port = port
        self._takes_ids = takes_ids
        self._extra = dict(extra)

    def post(self, prompt: Prompt, max_tokens: int, **changes: Any) -> Post:
        """The request for one greedy, streamed completion."""
        body = {
            "model": "model",
            "prompt": list(prompt.ids) if self._takes_ids else prompt.text,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            **self._extra,
            **changes,
        }
        return Post("127.0.0.1", self.port, "/v1/completions", body)

    def generate(self, prompts: Sequence[Prompt], max_tokens: int) -> list[Answer]:
        answers = burst([self.post(prompt, max_tokens) for prompt in prompts])
        return [
            _checked(self.name, prompt, answer, max_tokens) for prompt, answer in zip(prompts, answers, strict=True)
        ]


class PipeEngine(Engine):
    """A peer without a server: a driver in its own environment, asked over pipes, a JSON line each way.

    To the driver: {"prompts": [[ids]], "max_tokens": n}. From it: {"sent": seconds, "arrivals": [[seconds]],
    "tokens": [n]}, or {"error": text}. Its first line of all tells {"version": text, "configuration": {...}}.
    """

    def __init__(self, name: str, child: Child) -> None:
        super().__init__(name, "", {}, child)

    def wait_until_ready(self, probe: Prompt) -> None:
        hello = self._read()
        self.version, self.configuration = hello["version"], hello["configuration"]
        super().wait_until_ready(probe)

    def generate(self, prompts: Sequence[Prompt], max_tokens: int) -> list[Answer]:
        order = {"prompts": [prompt.ids for prompt in prompts], "max_tokens": max_tokens}
        self.child.stdin.write(json.dumps(order).encode() + b"\n")
        self.child.stdin.flush()
        said = self._read()
        return [
            _checked(self.name, prompt, Answer(said["sent"], tuple(times), tokens, "", "length"), max_tokens)
            for prompt, times, tokens in zip(prompts, said["arrivals"], said["tokens"], strict=True)
        ]

    def _read(self) -> dict[str, Any]:
        line = self.child.stdout.readline()
        if not line:
            self.child.stop()
            self.child.check_alive()
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise BenchmarkError(f"{self.name}: {said['error']}")
        return said


def _checked(name: str, prompt: Prompt, answer: Answer, max_tokens: int) -> Answer:
    """Raises BenchmarkError unless the peer did exactly the work it was given."""
    if answer.finish_reason != "length" or answer.tokens not in (0, max_tokens):
        raise BenchmarkError(
            f"{name} was to generate {max_tokens} tokens; it ended after {answer.tokens} by {answer.finish_reason!r}."
        )
    if answer.prompt_tokens not in (None, len(prompt.ids)):
        raise BenchmarkError(f"{name} counted {answer.prompt_tokens} prompt tokens, not {len(prompt.ids)}.")
    return replace(answer, tokens=max_tokens)  # without a count of its own, ending by length says it


@dataclass(frozen=True)
class Peer(ABC):
    """A program to be measured."""

    name: ClassVar[str]
    requirements: ClassVar[tuple[str, ...]] = ()
    overrides: ClassVar[tuple[str, ...]] = ()  # take the place of what a requirement itself demands
    unwanted: ClassVar[tuple[str, ...]] = ()  # uninstalled again
    packed_weights: ClassVar[bool] = False  # computes from the GGUF's own blocks, not from bfloat16
    one_at_a_time: ClassVar[bool] = False

    def build_environment(self) -> dict[str, str]:
        """Variables that the installation needs."""
        return {}

    def home(self, place: Place) -> Path:
        return place.venvs / self.name

    def python(self, place: Place) -> Path:
        return self.home(place) / "bin" / "python"

    def install(self, place: Place) -> None:
        """Make the environment if it isn't there as it is described here."""
        stamp = self.home(place) / "installed.json"
        build = self.build_environment()
        wanted = json.dumps([self.requirements, self.overrides, self.unwanted, build, sys.version])
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
            return
        print(f"{self.name}: installing {' '.join(self.requirements)}", flush=True)
        log = place.logs / f"install-{self.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        overrides = place.venvs / f"{self.name}.overrides.txt"
        overrides.parent.mkdir(parents=True, exist_ok=True)
        overrides.write_text("\n".join(self.overrides), encoding="utf-8")
        uv, python = find_uv(), str(self.python(place))
        fresh = ["--no-cache"] if build else []  # a cached wheel may have been built in another way
        steps = [
            [uv, "venv", "--clear", "--python", sys.executable, str(self.home(place))],
            [uv, "pip", "install", "--python", python, "--override", str(overrides), *fresh, *self.requirements],
        ]
        if self.unwanted:
            steps.append([uv, "pip", "uninstall", "--python", python, *self.unwanted])
        with log.open("w", encoding="utf-8") as stream:
            for step in steps:
                command = [nice, "-n", "19", *step] if (nice := shutil.which("nice")) else step
                done = subprocess.run(command, stdout=stream, stderr=stream, env={**os.environ, **build}, check=False)
                if done.returncode:
                    raise BenchmarkError(f"{self.name} could not be installed; see {log}.")
        stamp.write_text(wanted, encoding="utf-8")

    def installed_version(self, place: Place, distribution: str) -> str:
        found = sorted(self.home(place).glob(f"lib/python*/site-packages/{distribution}-*.dist-info"))
        if not found:
            raise BenchmarkError(f"{self.name} is not installed in {place.venvs}; run the `install` command first.")
        return found[0].name.removesuffix(".dist-info").removeprefix(f"{distribution}-")

    @abstractmethod
    def launch(self, place: Place, model: ModelFiles) -> Engine:
        """Spawn it; it need not be ready yet."""

    @contextmanager
    def running(self, place: Place, model: ModelFiles, probe: Prompt) -> Iterator[Engine]:
        """The peer, up and answering; afterwards nothing of it is left."""
        engine = self.launch(place, model)
        try:
            engine.wait_until_ready(probe)
            yield engine
        finally:
            engine.stop()


def find_uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if not found:
        raise BenchmarkError("The peers are installed with uv, which is missing: pip install uv.")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
