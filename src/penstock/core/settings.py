"""Where settings come from: `penstock.toml`, then `PENSTOCK_*` variables, then flags; the later wins.

The file is the one that `PENSTOCK_CONFIG` names, else `penstock.toml` in the working directory, else the one
in the user's configuration directory. Each settings class reads one table of it:

    @dataclass(frozen=True, kw_only=True)
    class ServerSettings(PenstockSettings):
        section: ClassVar[str] = "server"
        port: int = setting(8000, integer(0, 65535))

    ServerSettings.load(port=9000)  # flags; None means "not given"
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from penstock.core.errors import ConfigError
from penstock.core.paths import config_dir
from penstock.core.suggest import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Self

PREFIX = "PENSTOCK_"
SECTIONS = ("engine", "server")
TABLES = ("models", "ensembles")  # each may stand several times, as [[models]]
# Variables that other parts of the program read.
OTHER_VARIABLES = (
    "PENSTOCK_API_KEY", "PENSTOCK_CONFIG", "PENSTOCK_CPU_PATH", "PENSTOCK_HOME", "PENSTOCK_OFFLINE",
)  # fmt: skip

# A Kubernetes service called "penstock" puts PENSTOCK_PORT=tcp://10.0.0.1:80 and its like into every pod.
_KUBERNETES_LINK = re.compile(rf"{PREFIX}(\w+_)?(PORT(_\d+_\w+)?|SERVICE_HOST|SERVICE_PORT(_\w+)?)")


@dataclass(frozen=True, kw_only=True)
class PenstockSettings:
    """Base of every settings class; `section` is its table in `penstock.toml`.

    Raises ConfigError, when one is made, for a value that its setting can't have.
    """

    section: ClassVar[str]

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not field.default:
                object.__setattr__(self, field.name, _read(field.name, value, field.metadata, field.name))

    @classmethod
    def names(cls) -> list[str]:
        """The settings there are."""
        return [field.name for field in fields(cls)]

    @classmethod
    def load(cls, **flags: Any) -> Self:
        """Read all sources; a flag that is None was not given. Raises ConfigError naming the setting and its source."""
        return cls(**cls.given(**flags))

    @classmethod
    def given(cls, **flags: Any) -> dict[str, Any]:
        """What the sources say, without the defaults. Raises ConfigError as `load` does."""
        file, environment = _read_section(cls.section), _environment()
        values = {}
        for field in fields(cls):
            name, variable = field.name, PREFIX + field.name.upper()
            if (value := flags.get(name)) is not None:
                where = field.metadata["flag"] or "--" + name.replace("_", "-")
            elif (value := environment.get(variable)) is not None:
                where = f"The environment variable {variable}"
            elif name in file:
                value, where = file[name], f"[{cls.section}] {name} in {config_file()}"
            else:
                continue
            values[name] = _read(name, value, field.metadata, where)
        _refuse_unknown(file, cls.section, cls.names(), config_file())
        return values


def _read(name: str, value: object, how: Mapping[str, Any], where: str) -> Any:
    try:
        return how["read"](value)
    except ConfigError as error:
        shown = "" if "key" in name or repr(value) in error.message else f" (it is {value!r})"
        raise ConfigError(f"{where}: {error.message}{shown}", param=name) from error


def _environment() -> dict[str, str]:
    """What is set to something, by name in capitals, without Kubernetes' service links."""
    return {
        name.upper(): value
        for name, value in os.environ.items()
        if value and not value.startswith(("tcp://", "udp://"))
    }


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
    known = [*OTHER_VARIABLES, *(PREFIX + name.upper() for cls in classes for name in cls.names())]
    return [
        f"The environment variable {name} is not a setting and was ignored.{did_you_mean(name, known)}"
        for name in sorted(os.environ)
        if name.startswith(PREFIX) and name not in known and not _KUBERNETES_LINK.fullmatch(name)
    ]


def read_tables(name: str) -> list[dict[str, Any]]:
    """The tables `[[name]]` of the settings file, in their order. Raises ConfigError for a file that can't be read."""
    return [_with_underscores(table) for table in _read_file().get(name, [])]


def read_toml(path: Path, param: str | None = None) -> dict[str, Any]:
    """Raises ConfigError for a file that can't be read, or isn't TOML."""
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}.", param=param) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.", param=param) from error


def section_of(tables: dict[str, Any], section: str, known: Collection[str], path: Path) -> dict[str, Any]:
    """A table of a file that a command was given. Raises ConfigError for a name in it that isn't `known`."""
    table = _with_underscores(tables.get(section, {}))
    _refuse_unknown(table, section, known, path)
    return table


def _refuse_unknown(table: dict[str, Any], section: str, known: Collection[str], path: Path | None) -> None:
    for name in table:
        if name not in known:
            raise ConfigError(f"[{section}] in {path} has no setting {name!r}.{did_you_mean(name, known)}", param=name)


def _read_section(section: str) -> dict[str, Any]:
    return _with_underscores(_read_file().get(section, {}))


def _with_underscores(table: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("-", "_"): value for name, value in table.items()}


def _read_file() -> dict[str, Any]:
    path = config_file()
    if path is None:
        return {}
    tables = read_toml(path)
    for name, value in tables.items():
        if (name in SECTIONS and isinstance(value, dict)) or (name in TABLES and _are_tables(value)):
            continue
        *first, last = [f"[{known}]" for known in SECTIONS] + [f"[[{known}]]" for known in TABLES]
        hint = did_you_mean(name, (*SECTIONS, *TABLES))
        raise ConfigError(
            f"{path}: {name!r} stands outside the sections it may hold, {', '.join(first)} and {last}.{hint}",
            param=name,
        )
    return tables


def _are_tables(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)
