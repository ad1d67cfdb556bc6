"""What a study is asked to do: from a TOML file, then from flags; the later wins.

[bench]                 # the load, as for `penstock bench run`; or `for` below
concurrency = 8

[tune]
for = "chat"
objective = "throughput"
budget = 8              # minutes

[tune.set]              # the same in every trial
max-model-len = 4096

[tune.space]            # instead of the usual ones
block-size = [16, 32, 64]
speculation = ["off", "default"]
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from penstock.core.errors import ConfigError, InvalidRequestError
from penstock.core.setting_kinds import integer, number, path, setting, switch, text
from penstock.core.settings import PenstockSettings, read_toml, section_of
from penstock.core.suggest import did_you_mean
from penstock.lab.bench.settings import BenchSettings
from penstock.lab.bench.setup import make_load
from penstock.lab.bench.tune.space import Space, default_space, parse_fixed
from penstock.lab.statistics import MARGIN
from penstock.models.store import DEFAULT_MODEL

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from penstock.lab.bench.setup import Load

# Loads of some seconds a run on two cores. Word for word as `penstock bench run` takes them.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "chat": {
        "workload": "conversations?turns=3&think=0.05&followup_tokens=16-48", "output_tokens": "40", "concurrency": 8,
        "requests": 24,
    },
    "documents": {
        "workload": "documents?documents=4&document_tokens=1500&questions=3", "output_tokens": "32", "concurrency": 2,
        "requests": 14,
    },
    "one-stream": {
        "workload": "synthetic", "input_tokens": "128", "output_tokens": "128", "concurrency": 1, "requests": 6,
    },
}  # fmt: skip
_WRITTEN = {"preset": "for", "fixed": "set"}  # settings whose names Python has other uses for
_LOADS = ("concurrency", "rate", "ramp", "steps")
_OF_A_SERVER = ("url", "model", "ca", "metrics", "dcgm", "keep_alive", "repeats", "out")
_ENDS = ("requests", "duration")


def _table(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError("must be a table")
    return dict(value)


@dataclass(frozen=True, kw_only=True)
class TuneSettings(PenstockSettings):
    """How a study is made. The load is `BenchSettings`."""

    section: ClassVar[str] = "tune"

    model: str = setting(DEFAULT_MODEL, text)
    preset: str | None = setting(None, text, flag="--for")
    objective: str = setting("throughput", text)
    price_per_hour: float | None = setting(None, number(0, above=True))
    budget: float = setting(8.0, number(0, above=True))  # minutes
    trials: int = setting(60, integer(1))
    patience: int = setting(12, integer(1))
    rounds: int = setting(8, integer(2))
    margin: float = setting(MARGIN, number(0, 1, above=True))
    fixed: dict[str, Any] | None = setting(None, _table, flag="--set")
    space: dict[str, Any] | None = setting(None, _table)
    allow_lossy: bool = setting(False, switch)  # noqa: FBT003 - a default
    out: Path | None = setting(None, path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """All of it."""

    tune: TuneSettings
    bench: BenchSettings
    space: Space

    @property
    def load_name(self) -> str:
        return self.tune.preset or self.bench.workload

    @property
    def load(self) -> dict[str, Any]:
        """What is asked and when, as JSON values; without what is of a server that is up already."""
        return {name: value for name, value in self.bench.describe().items() if name not in _OF_A_SERVER}


def read(file: Path | None, flags: Mapping[str, Any], bench_flags: Mapping[str, Any]) -> Asked:
    """Raises ConfigError or InvalidRequestError, naming the setting and its source."""
    tables = {} if file is None else _tables(file)
    known = [_WRITTEN.get(name, name) for name in TuneSettings.names()]
    table = {} if file is None else section_of(tables, "tune", known, file)
    table = {name: table[key] for name in TuneSettings.names() if (key := _WRITTEN.get(name, name)) in table}
    given = {key: value for key, value in flags.items() if value is not None}
    if "fixed" in given:
        given["fixed"] = {**_table(table.get("fixed", {})), **parse_fixed(given["fixed"])}
    tune = TuneSettings(**(table | given))
    bench = _bench(file if "bench" in tables else None, tune, bench_flags)
    if tune.preset is None and "bench" not in tables and not bench_flags.get("workload"):
        tune = TuneSettings(**(table | given | {"preset": "chat"}))
    space = default_space(tune.fixed or {}, lossy=tune.allow_lossy, tried=tune.space)
    return Asked(tune=tune, bench=bench, space=space)


def _bench(file: Path | None, tune: TuneSettings, flags: Mapping[str, Any]) -> BenchSettings:
    preset: dict[str, Any] = {}
    if tune.preset is not None:
        if tune.preset not in PRESETS:
            raise InvalidRequestError(
                f"There is no load {tune.preset!r} to tune for.{did_you_mean(tune.preset, PRESETS)} There are"
                f" {', '.join(PRESETS)}; any other is a --workload.",
                param="for",
            )
        if file is not None or flags.get("workload"):
            other = f"[bench] in {file}" if file is not None else "--workload"
            raise InvalidRequestError(f"--for and {other} both say what the load is; give one.", param="for")
        preset = dict(PRESETS[tune.preset])
    elif file is None and not flags.get("workload"):
        preset = dict(PRESETS["chat"])
    for group in (_LOADS, _ENDS):
        if any(flags.get(name) is not None for name in group):
            preset = {name: value for name, value in preset.items() if name not in group}
    asked = BenchSettings.read(file, **(preset | dict(flags)))
    if asked.repeats is not None:
        raise InvalidRequestError("A study decides itself how often it repeats a run.", param="repeats")
    return asked


def with_tokenizer(asked: Asked) -> tuple[Asked, Load]:
    """The load, with the model's own tokenizer unless another is named, so that prompts are as long as asked.

    One whose tokens are no words leaves lengths to the server's usage. Raises InvalidRequestError as `make_load` does.
    """
    if asked.bench.tokenizer is None:
        own = replace(asked, bench=replace(asked.bench, tokenizer=asked.tune.model))
        try:
            return own, make_load(own.bench)
        except ConfigError as error:
            if error.param != "tokenizer":
                raise
    return asked, make_load(asked.bench)


def _tables(file: Path) -> dict[str, Any]:
    tables = read_toml(file, "config")
    if not isinstance(tables.get("tune", tables.get("bench")), dict):
        raise ConfigError(f"{file} has no table [tune] or [bench].", param="config")
    return tables
