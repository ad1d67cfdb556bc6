"""What a server is told to serve: the model of the command line, and the `[[models]]` of `penstock.toml`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from penstock.core.errors import ConfigError, PenstockError
from penstock.core.setting_kinds import choice, number, setting, switch
from penstock.core.settings import config_file, read_tables
from penstock.core.suggest import did_you_mean
from penstock.engine.settings import EngineSettings
from penstock.models.tool_families import Spelling
from penstock.server.settings import model_name, model_names

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from penstock.engine.config import EngineConfig
    from penstock.server.settings import ServerSettings


@dataclass(frozen=True, kw_only=True)
class DeclaredModel:
    """A model to be served.

    Two of one name are two versions of it: the name means the one declared last, `name@version` each of them.
    """

    config: EngineConfig
    name: str | None = None  # None: the model's own
    version: str = "1"
    aliases: tuple[str, ...] = ()
    tool_format: Spelling = "auto"  # how it writes tool calls; auto: as its chat template tells
    idle_unload: float | None = None  # seconds without a request after which it leaves memory until the next one
    preload: bool = True  # load it at the start; else at the first request

    @classmethod
    def of(cls, config: EngineConfig, settings: ServerSettings) -> Self:
        """The model of the command line."""
        return cls(
            config=config,
            name=settings.served_model_name,
            aliases=settings.aliases,
            tool_format=settings.tool_format,
            idle_unload=settings.idle_unload,
        )


def of_model(name: str, error: PenstockError) -> PenstockError:
    """The same error, which says what model it is about."""
    return type(error)(f"The model {name!r}: {error.message}", param=error.param, code=error.code)


@dataclass(frozen=True, kw_only=True)
class ModelSettings(EngineSettings):
    """One `[[models]]` table: a name and a model, and any of the engine's settings for this model alone."""

    section: ClassVar[str] = "models"

    name: str = setting("", model_name)
    version: str = setting("1", model_name)
    aliases: tuple[str, ...] = setting((), model_names)
    tool_format: Spelling = setting("auto", choice(Spelling))
    idle_unload: float | None = setting(None, number(0, above=True))
    preload: bool = setting(default=True, read=switch)

    @classmethod
    def all_of(cls, engine: EngineSettings, server: ServerSettings, *, after_another: bool) -> list[Self]:
        """The tables there are; what one leaves open is as for every model, save adapters, which are for one base.

        Args:
            engine: the settings of all.
            server: likewise.
            after_another: a model comes before these, to which the adapters among the settings belong; else they are
                the first table's.

        Raises ConfigError naming the table and the setting at fault.
        """
        base = {**vars(engine), "idle_unload": server.idle_unload, "tool_format": server.tool_format}
        later = {**base, "lora_modules": ()}
        return [
            cls._of(table, later if after_another or index else base, f"[[models]] {index + 1}")
            for index, table in enumerate(read_tables(cls.section))
        ]

    @classmethod
    def _of(cls, table: dict[str, Any], base: dict[str, Any], place: str) -> Self:
        for needed in ("name", "model"):
            if needed not in table:
                raise ConfigError(f"{place} in {config_file()} has no {needed!r}.", param=needed)
        for name in table:
            if name not in cls.names():
                hint = did_you_mean(name, cls.names())
                raise ConfigError(f"{place} in {config_file()} has no setting {name!r}.{hint}", param=name)
        try:
            return cls(**{**base, **table})
        except ConfigError as error:
            raise ConfigError(f"{place} in {config_file()}, {error.message}", param=error.param) from error

    def declared(self, find: Callable[[str], Path]) -> DeclaredModel:
        """The declaration; `find` resolves the names of models. Raises what it does, with this model's name."""
        try:
            config = self.config(find)
        except PenstockError as error:
            raise of_model(self.name, error) from error
        return DeclaredModel(
            config=config,
            name=self.name,
            version=self.version,
            aliases=self.aliases,
            tool_format=self.tool_format,
            idle_unload=self.idle_unload,
            preload=self.preload,
        )
