"""What every engine has: a recipe to install it, a command to start it, and settings in common with the others."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from penstock.core.errors import NotFoundError
from penstock.lab.bench.engines.environment import Recipe, install, installed_version, remove

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from penstock.lab.bench.endpoint import Api
    from penstock.lab.bench.engines.model import ModelForms
    from penstock.lab.bench.engines.place import Place

SERVED = "model"  # the name under which every engine serves its model


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """Settings that would make a comparison unfair if one engine had them and another had not."""

    context: int = 4096  # tokens of a prompt and its answer
    parallel: int = 32  # requests computed at the same time
    batch_tokens: int = 2048  # computed in one step
    threads: int | None = None  # None: as each engine sets itself up
    prefix_cache: bool = False
    speculation: bool = False
    api: Api = "completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How an engine is started with these settings."""

    command: tuple[str, ...]
    port: int
    env: Mapping[str, str] = field(default_factory=dict)
    configuration: Mapping[str, Any] = field(default_factory=dict)  # for records: what it was given, JSON values
    differs: tuple[str, ...] = ()  # what couldn't be made as the others have it, a sentence each
    body: Mapping[str, Any] = field(default_factory=dict)  # merged into every request
    ignore_eos: bool = True  # it takes the field
    takes_numbers: bool = True  # in X-Request-Id
    prepare: Callable[[], None] | None = None  # once it listens, before it is asked


class Engine(ABC):
    """A program that serves a model behind an OpenAI-compatible API."""

    name: ClassVar[str]
    summary: ClassVar[str]
    packed_weights: ClassVar[bool] = False  # computes from the GGUF's own blocks, not from bfloat16
    one_at_a_time: ClassVar[bool] = False
    not_run: ClassVar[str] = ""  # why figures of it have never been taken here; empty: they have
    installable: ClassVar[bool] = True

    def recipe(self) -> Recipe:
        """What its environment holds."""
        return Recipe()

    def home(self, place: Place) -> Path:
        """Its folder; ways to start the same engine share one."""
        return place.venvs / self.name

    def python(self, place: Place) -> Path:
        return self.home(place) / "bin" / "python"

    def install(self, place: Place, say: Callable[[str], None]) -> None:
        """Make its environment, if it isn't there as the recipe says. Raises StoreError if that fails."""
        install(self.name, self.home(place), place.logs, self.recipe(), say)

    def remove(self, place: Place) -> bool:
        """Whether there was anything to remove."""
        return remove(self.home(place))

    @abstractmethod
    def version(self, place: Place) -> str | None:
        """None: it isn't installed."""

    @abstractmethod
    def plan(self, place: Place, model: ModelForms, common: Common, options: Mapping[str, str], port: int) -> Launch:
        """How to start it. `options` are flags of its own, without dashes; an empty value is a switch.

        Raises a PenstockError if it can't serve the model, or can't be started here.
        """

    def require_installed(self, place: Place) -> str:
        """Its version. Raises NotFoundError, saying how to install it."""
        if (version := self.version(place)) is None:
            how = f"penstock bench engines install {self.name}" if self.installable else self.not_run
            raise NotFoundError(f"{self.name} is not installed: {how}.", param="engine")
        return version


class PythonEngine(Engine):
    """One that comes as a Python package."""

    distribution: ClassVar[str]

    def version(self, place: Place) -> str | None:
        return installed_version(self.home(place), self.distribution)


def flags(options: Mapping[str, str]) -> list[str]:
    """{"block-size": "32", "eager": ""} as --block-size 32 --eager."""
    return [part for name, value in options.items() for part in ([f"--{name}", value] if value else [f"--{name}"])]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
