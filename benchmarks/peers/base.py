"""What every peer has: an environment of its own, a way to start, and a way to be asked."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.client import Answer, Post, burst
from benchmarks.errors import BenchmarkError
from penstock.lab.bench.engines.base import free_port
from penstock.lab.bench.engines.environment import install, installed_version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from benchmarks.workload import ModelFiles, Prompt
    from penstock.lab.bench.engines.environment import Recipe
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
    distribution: ClassVar[str]
    packed_weights: ClassVar[bool] = False  # computes from the GGUF's own blocks, not from bfloat16
    one_at_a_time: ClassVar[bool] = False

    @abstractmethod
    def recipe(self) -> Recipe:
        """What its environment holds."""

    def home(self, place: Place) -> Path:
        return place.venvs / self.name

    def python(self, place: Place) -> Path:
        return self.home(place) / "bin" / "python"

    def install(self, place: Place) -> None:
        """Make the environment if it isn't there as it is described here."""
        install(self.name, self.home(place), place.logs, self.recipe(), lambda line: print(line, flush=True))

    def installed_version(self, place: Place) -> str:
        version = installed_version(self.home(place), self.distribution)
        if version is None:
            raise BenchmarkError(f"{self.name} is not installed in {place.venvs}; run the `install` command first.")
        return version

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


__all__ = ["Answer", "Engine", "HttpEngine", "Peer", "PipeEngine", "Place", "free_port"]
