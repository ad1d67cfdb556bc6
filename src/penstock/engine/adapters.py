"""The adapters of one engine core: by name for requests, by number for the runner and the prefix cache.

A number is never given out twice, so what was computed with an adapter is not found by another that is later loaded
under its name. One that is unloaded takes no new requests; it leaves memory when those it has are done.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.core.errors import ConfigError, InvalidRequestError, ModelFileError, NotFoundError
from penstock.engine.types import AdapterInfo

if TYPE_CHECKING:
    from penstock.engine.runners.base import ModelRunner
    from penstock.models.spec import ModelSpec


@dataclass(slots=True)
class _Loaded:
    name: str
    users: int = 0
    wanted: bool = True


class AdapterTable:
    """Loads adapters into a runner, and counts who uses them.

    Args:
        most: adapters in memory at a time, those included that are only kept for running requests.
        max_rank: the greatest rank of one.
    """

    def __init__(self, runner: ModelRunner, spec: ModelSpec, *, most: int, max_rank: int) -> None:
        self._runner = runner
        self._spec = spec
        self._most = most
        self._max_rank = max_rank
        self._numbers: dict[str, int] = {}  # of those that take requests
        self._loaded: dict[int, _Loaded] = {}
        self._last = 0

    def load(self, name: str, path: str) -> AdapterInfo:
        """Bring an adapter into memory.

        Raises InvalidRequestError for a name in use or where there are too many, NotFoundError and ModelFileError for
        files that aren't there or can't be, ConfigError without room.
        """
        if name in self._numbers:
            raise InvalidRequestError(
                f"An adapter {name!r} is loaded already. Unload it first.", param="lora_name", code="adapter_exists"
            )
        if len(self._loaded) >= self._most:
            raise InvalidRequestError(
                f"{len(self._loaded)} adapters are in memory, as many as may be. Unload one, or raise --max-loras.",
                param="lora_name",
                code="too_many_adapters",
            )
        from penstock.models.lora import LoraAdapter  # which most starts do without

        with LoraAdapter.open(Path(path), self._spec, self._max_rank) as adapter:
            nbytes = self._runner.load_adapter(self._last + 1, adapter)
            rank = adapter.rank
        self._last += 1
        self._numbers[name] = self._last
        self._loaded[self._last] = _Loaded(name)
        return AdapterInfo(name=name, path=path, rank=rank, nbytes=nbytes)

    def unload(self, name: str) -> None:
        """Take no new requests for an adapter, and forget it once it has none. Raises NotFoundError."""
        number = self._number(name)
        del self._numbers[name]
        self._loaded[number].wanted = False
        self._forget_unused(number)

    def acquire(self, name: str) -> int:
        """The number of an adapter, held for a request until `release`; 0 for the base. Raises NotFoundError."""
        if not name:
            return 0
        number = self._number(name)
        self._loaded[number].users += 1
        return number

    def release(self, number: int) -> None:
        """A request that held an adapter has ended."""
        if number:
            self._loaded[number].users -= 1
            self._forget_unused(number)

    def _number(self, name: str) -> int:
        try:
            return self._numbers[name]
        except KeyError:
            raise NotFoundError(
                f"No adapter {name[:256]!r} is loaded.", param="model", code="model_not_found"
            ) from None

    def _forget_unused(self, number: int) -> None:
        loaded = self._loaded[number]
        if not loaded.wanted and not loaded.users:
            del self._loaded[number]
            self._runner.unload_adapter(number)


def load_all(table: AdapterTable, modules: tuple[tuple[str, str], ...]) -> list[AdapterInfo]:
    """Those that the configuration names. Raises ConfigError for one that can't be loaded."""
    infos = []
    for name, path in modules:
        try:
            infos.append(table.load(name, path))
        except (InvalidRequestError, ModelFileError, NotFoundError) as error:
            raise ConfigError(f"The adapter {name!r}: {error.message}", param="lora_modules") from error
    return infos
