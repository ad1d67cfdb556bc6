"""Where settings come from: `penstock.toml`, then `PENSTOCK_*` variables, then flags; the later wins.

The file is the one that `PENSTOCK_CONFIG` names, else `penstock.toml` in the working directory, else the one
in the user's configuration directory. Each settings class reads one table of it:

    class ServerSettings(PenstockSettings):
        section = "server"
        host: str = "127.0.0.1"

    ServerSettings.load(port=9000)  # flags; None means "not given"
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from penstock.core.errors import ConfigError
from penstock.core.paths import config_dir
from penstock.core.sizes import parse_size
from penstock.core.suggest import did_you_mean

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

PREFIX = "PENSTOCK_"
SECTIONS = ("engine", "server")
# Variables that other parts of the program read.
OTHER_VARIABLES = (
    "PENSTOCK_API_KEY", "PENSTOCK_CONFIG", "PENSTOCK_CPU_PATH", "PENSTOCK_HOME", "PENSTOCK_OFFLINE",
)  # fmt: skip


def _split_commas(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _bytes(value: object) -> object:
    if not isinstance(value, str | int | float):
        return value
    try:
        return parse_size(value)
    except ConfigError as error:
        raise ValueError(error.message) from error


Names = Annotated[tuple[str, ...], BeforeValidator(_split_commas)]
"""Several strings: a TOML list, or one comma-separated environment variable."""

Size = Annotated[int, BeforeValidator(_bytes)]
"""Bytes, also written as "2GiB"."""


# A Kubernetes service called "penstock" puts PENSTOCK_PORT=tcp://10.0.0.1:80 and its like into every pod.
_KUBERNETES_LINK = re.compile(rf"{PREFIX}(\w+_)?(PORT(_\d+_\w+)?|SERVICE_HOST|SERVICE_PORT(_\w+)?)")


class _Environment(EnvSettingsSource):
    """The environment without Kubernetes' service links."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        value, key, is_complex = super().get_field_value(field, field_name)
        is_link = isinstance(value, str) and value.startswith(("tcp://", "udp://"))
        return (None if is_link else value), key, is_complex


class PenstockSettings(BaseSettings):
    """Base of every settings class; `section` is its table in `penstock.toml`."""

    section: ClassVar[str]
    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="forbid",
        frozen=True,
        enable_decoding=False,
        env_ignore_empty=True,
        protected_namespaces=(),
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (the names are the library's)
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _Environment(settings_cls), InitSettingsSource(settings_cls, _read_section(cls.section))

    @classmethod
    def load(cls, **flags: Any) -> Self:
        """Read all sources; a flag that is None was not given. Raises ConfigError naming the setting and its source."""
        given = {name: value for name, value in flags.items() if value is not None}
        try:
            return cls(**given)
        except ValidationError as error:
            raise cls._explain(error.errors()[0], given) from error

    @classmethod
    def _explain(cls, error: ErrorDetails, flags: dict[str, Any]) -> ConfigError:
        name = str(error["loc"][0]) if error["loc"] else ""
        reason = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            hint = did_you_mean(name, cls.model_fields)
            return ConfigError(f"[{cls.section}] in {config_file()} has no setting {name!r}.{hint}", param=name)
        variable = PREFIX + name.upper()
        if name in flags:
            where = "--" + name.replace("_", "-")
        elif variable in os.environ:
            where = f"The environment variable {variable}"
        else:
            where = f"[{cls.section}] {name} in {config_file()}" if name else f"[{cls.section}]"
        secret = not name or "key" in name
        shown = "" if secret or error["type"] == "value_error" else f" (it is {error['input']!r})"
        return ConfigError(f"{where}: {reason}{shown}", param=name or None)


def config_file() -> Path | None:
    """The settings file in force, if any. Raises ConfigError if PENSTOCK_CONFIG names a file that isn't there."""
    named = os.environ.get("PENSTOCK_CONFIG")
    if named:
        path = Path(named).expanduser()
        if not path.is_file():
            raise ConfigError(f"PENSTOCK_CONFIG names {named}, which is not a file.", param="PENSTOCK_CONFIG")
        return path
    candidates = (Path("penstock.toml"), config_dir() / "penstock.toml")
    return next((path for path in candidates if path.is_file()), None)


def unknown_variables(*classes: type[PenstockSettings]) -> list[str]:
    """A sentence for each `PENSTOCK_*` variable that none of `classes` reads: most often a slip of the pen."""
    known = [*OTHER_VARIABLES, *(PREFIX + name.upper() for cls in classes for name in cls.model_fields)]
    return [
        f"The environment variable {name} is not a setting and was ignored.{did_you_mean(name, known)}"
        for name in sorted(os.environ)
        if name.startswith(PREFIX) and name not in known and not _KUBERNETES_LINK.fullmatch(name)
    ]


def _read_section(section: str) -> dict[str, Any]:
    path = config_file()
    if path is None:
        return {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error
    for name, table in tables.items():
        if name not in SECTIONS or not isinstance(table, dict):
            sections = " and ".join(f"[{known}]" for known in SECTIONS)
            hint = did_you_mean(name, SECTIONS)
            raise ConfigError(
                f"{path}: {name!r} stands outside the sections it may hold, {sections}.{hint}", param=name
            )
    found: dict[str, Any] = tables.get(section, {})
    return {name.replace("-", "_"): value for name, value in found.items()}
