"""What a load test is asked to do: from the `[bench]` table of a TOML file, then from flags; the later wins."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from penstock.core.errors import ConfigError
from penstock.core.setting_kinds import choice, integer, number, path, setting, switch, text
from penstock.core.settings import PenstockSettings, read_toml, section_of

if TYPE_CHECKING:
    from typing import Self

DEFAULT_URL = "http://127.0.0.1:8000"
ARRIVALS = Literal["poisson", "constant", "gamma"]
APIS = Literal["auto", "chat", "completions", "generate"]
DURATION_S = 10.0  # of a repeat, where nothing else ends it


def _headers(value: object) -> tuple[tuple[str, str], ...]:
    """A TOML table, or a list of "NAME: VALUE"."""
    lines = [f"{name}: {held}" for name, held in value.items()] if isinstance(value, dict) else value
    if not isinstance(lines, list | tuple):
        raise ConfigError('must be headers of the form "NAME: VALUE"')
    pairs = []
    for line in lines:
        name, colon, held = (line if isinstance(line, str) else ": ".join(line)).partition(":")
        if not (name.strip() and colon) or not (name + held).isprintable() or not name.strip().isascii():
            raise ConfigError('must be headers of the form "NAME: VALUE"')
        pairs.append((name.strip().lower(), held.strip()))
    return tuple(pairs)


def _body(value: object) -> dict[str, Any]:
    """A TOML table, or an object in JSON."""
    try:
        read = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ConfigError(f"must be a JSON object: {error}") from error
    if not isinstance(read, dict):
        raise ConfigError("must be a JSON object")
    return read


@dataclass(frozen=True, kw_only=True)
class BenchSettings(PenstockSettings):
    """Where, what, how much, how often. None: not asked for."""

    section: ClassVar[str] = "bench"

    url: str = setting(DEFAULT_URL, text)
    api: str = setting("auto", choice(APIS))
    model: str | None = setting(None, text)
    api_key: str | None = setting(None, text, secret=True)
    ca: Path | None = setting(None, path)
    header: tuple[tuple[str, str], ...] = setting((), _headers, secret=True)
    body: dict[str, Any] | None = setting(None, _body)
    ignore_eos: bool | None = setting(None, switch)
    timeout: float = setting(600.0, number(0, above=True))
    keep_alive: bool = setting(default=True, read=switch)
    workload: str = setting("synthetic", text)
    input_tokens: str | None = setting(None, lambda value: text(str(value)))
    output_tokens: str | None = setting(None, lambda value: text(str(value)))
    tokenizer: str | None = setting(None, text)
    seed: int = setting(0, integer(0))
    concurrency: int | None = setting(None, integer(1))
    rate: float | None = setting(None, number(0, above=True))
    arrivals: str | None = setting(None, choice(ARRIVALS))
    burstiness: float | None = setting(None, number(0, 1000))
    ramp: str | None = setting(None, text)
    ramp_up: float | None = setting(None, number(0, 86400))
    steps: str | None = setting(None, text)
    requests: int | None = setting(None, integer(1))
    duration: float | None = setting(None, number(0, above=True))
    warm_up: int | None = setting(None, integer(0))
    repeats: int | None = setting(None, integer(1))
    workers: int | None = setting(None, integer(1, 1000))
    ray: str | None = setting(None, text)
    raw: bool | None = setting(None, switch)
    slo: str | None = setting(None, text)
    metrics: str | None = setting(None, text)
    dcgm: str | None = setting(None, text)
    out: Path | None = setting(None, path)

    def __post_init__(self) -> None:
        super().__post_init__()
        loads = [name for name in ("concurrency", "rate", "ramp", "steps") if getattr(self, name) is not None]
        if len(loads) > 1:
            raise ConfigError(f"{_flag(loads[0])} and {_flag(loads[1])} exclude each other.", param=loads[1])
        if self.arrivals is not None and all(getattr(self, name) is None for name in ("rate", "ramp", "steps")):
            raise ConfigError(
                "--arrivals say how requests of a --rate, a --ramp or --steps come; give one.", param="arrivals"
            )
        if self.burstiness is not None and all(getattr(self, name) is None for name in ("rate", "ramp", "steps")):
            raise ConfigError("Burstiness is of a --rate, a --ramp or --steps; give one.", param="burstiness")
        if self.burstiness is not None and self.arrivals not in (None, "gamma"):
            raise ConfigError(f"{self.arrivals} arrivals have a burstiness of their own.", param="burstiness")
        if self.ramp_up is not None and any(getattr(self, name) is not None for name in ("rate", "ramp", "steps")):
            raise ConfigError("--ramp-up is of a closed loop; a rate that grows is a --ramp.", param="ramp_up")
        for name in ("ray", "raw"):
            if self.workers is None and getattr(self, name) is not None:
                raise ConfigError(f"{_flag(name)} is of several --workers; say how many.", param=name)
        if self.arrivals == "gamma" and self.burstiness is None:
            raise ConfigError(
                "Gamma arrivals need a --burstiness: 1 is Poisson, more comes in bursts.", param="arrivals"
            )

    @classmethod
    def read(cls, file: Path | None, **flags: Any) -> Self:
        """Both sources; a flag that is None was not given. Raises ConfigError naming the setting and its source."""
        values = {} if file is None else _table(file, cls)
        key = {} if values.get("api_key") or not os.environ.get("OPENAI_API_KEY") else _key()
        return cls(**(key | values | {name: value for name, value in flags.items() if value is not None}))

    def describe(self) -> dict[str, Any]:
        """All of it as JSON values for a record, secrets left out."""
        shown = {field.name: getattr(self, field.name) for field in fields(self) if field.repr}
        return {name: str(value) if isinstance(value, Path) else value for name, value in shown.items()}

    def command(self) -> list[str]:
        """The command line that asks for the same. The key isn't in it: it comes from OPENAI_API_KEY."""
        words = ["penstock", "bench", "run", self.url]
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default or field.name in ("url", "api_key", "out"):
                continue
            if isinstance(value, bool):
                words.append(_flag(field.name) if value else f"--no-{_flag(field.name)[2:]}")
            elif field.name == "header":
                words += [word for name, held in value for word in ("--header", f"{name}: {held}")]
            else:
                words += [_flag(field.name), json.dumps(value) if isinstance(value, dict) else str(value)]
        return words


def _key() -> dict[str, str]:
    return {"api_key": os.environ["OPENAI_API_KEY"]}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _table(file: Path, cls: type[BenchSettings]) -> dict[str, Any]:
    tables = read_toml(file, "config")
    if not isinstance(tables.get(cls.section), dict):
        raise ConfigError(f"{file} has no table [{cls.section}].", param="config")
    return section_of(tables, cls.section, cls.names(), file)
