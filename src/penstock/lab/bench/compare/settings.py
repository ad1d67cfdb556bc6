"""What a comparison is asked to do: from a TOML file, then from flags; the later wins.

[bench]                 # the load, as for `penstock bench run`
concurrency = 8

[compare]
rounds = 6
fail-if = ["ttft p95 slower"]

[[compare.engine]]
engine = "penstock"

[[compare.engine]]
name = "theirs"
url = "http://gpu-box:8000"
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from penstock.core.errors import ConfigError, InvalidRequestError
from penstock.core.setting_kinds import integer, number, path, setting, switch, text
from penstock.core.settings import PenstockSettings, read_toml, section_of
from penstock.lab.bench.compare.contenders import Contender
from penstock.lab.bench.compare.outcome import Gate
from penstock.lab.bench.engines import Common
from penstock.lab.bench.settings import BenchSettings
from penstock.lab.statistics import MARGIN
from penstock.models.store import DEFAULT_MODEL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_COMMON = Common()
_LEAST_REQUESTS = 20  # of a run, where neither duration nor requests are asked for
_TURNS = 5  # of each of a closed loop's streams


def _gates(value: object) -> tuple[Gate, ...]:
    lines = [value] if isinstance(value, str) else value
    if not isinstance(lines, list | tuple):
        raise ConfigError('must be gates such as "ttft p95 slower"')
    return tuple(line if isinstance(line, Gate) else Gate.parse(str(line)) for line in lines)


@dataclass(frozen=True, kw_only=True)
class CompareSettings(PenstockSettings):
    """How a comparison is made. The load is `BenchSettings`."""

    section: ClassVar[str] = "compare"

    model: str = setting(DEFAULT_MODEL, text)  # of the engines that are started
    rounds: int = setting(6, integer(2))
    margin: float = setting(MARGIN, number(0, 1, above=True))
    price_per_hour: float | None = setting(None, number(0, above=True))
    currency: str = setting("", text)
    fail_if: tuple[Gate, ...] = setting((), _gates)
    context: int = setting(_COMMON.context, integer(16))
    parallel: int | None = setting(None, integer(1))
    batch_tokens: int = setting(_COMMON.batch_tokens, integer(16))
    threads: int | None = setting(None, integer(1))
    prefix_cache: bool = setting(False, switch)  # noqa: FBT003 - a default
    speculation: bool = setting(False, switch)  # noqa: FBT003 - a default
    out: Path | None = setting(None, path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """All of it."""

    compare: CompareSettings
    bench: BenchSettings
    contenders: list[Contender] = field(default_factory=list)

    @property
    def common(self) -> Common:
        """As many requests at once as the load may have under way, unless told otherwise."""
        asked = self.compare
        return Common(
            context=asked.context, parallel=asked.parallel or self.bench.concurrency or _COMMON.parallel,
            batch_tokens=asked.batch_tokens, threads=asked.threads, prefix_cache=asked.prefix_cache,
            speculation=asked.speculation, api="chat" if self.bench.api == "chat" else "completions",
        )  # fmt: skip


def read(file: Path | None, names: Sequence[str], flags: dict[str, Any], bench_flags: dict[str, Any]) -> Asked:
    """Raises ConfigError or InvalidRequestError, naming the setting and its source."""
    tables = {} if file is None else _tables(file)
    table = {} if file is None else section_of(tables, "compare", (*CompareSettings.names(), "engine"), file)
    engines = table.pop("engine", [])
    if not isinstance(engines, list) or not all(isinstance(each, dict) for each in engines):
        raise ConfigError(f"The engines of a comparison stand in {file} as [[compare.engine]].", param="engine")
    compare = CompareSettings(**(table | {key: value for key, value in flags.items() if value is not None}))
    contenders = [Contender.parse(name) for name in names]
    contenders = contenders or [Contender.from_table(each, str(file)) for each in engines]
    bench = _bench(file if "bench" in tables else None, compare, contenders, bench_flags)
    return Asked(compare=compare, bench=bench, contenders=contenders)


def _bench(
    file: Path | None, compare: CompareSettings, contenders: Sequence[Contender], flags: dict[str, Any]
) -> BenchSettings:
    asked = BenchSettings.read(file, **flags)
    if asked.repeats is not None and asked.repeats != BenchSettings.repeats:
        raise InvalidRequestError("A comparison is repeated in --rounds, not --repeats.", param="repeats")
    if asked.workers is not None:
        raise InvalidRequestError(
            "A comparison's load is offered by one client; leave out the workers.", param="workers"
        )
    more: dict[str, Any] = {}
    if asked.tokenizer is None and any(each.engine for each in contenders):
        more["tokenizer"] = compare.model  # so that prompts have the same length for everyone
    if asked.requests is None and asked.duration is None and asked.rate is None and asked.ramp is asked.steps is None:
        more["requests"] = max(_LEAST_REQUESTS, _TURNS * (asked.concurrency or 4))
    return BenchSettings.read(file, **(flags | more)) if more else asked


def _tables(file: Path) -> dict[str, Any]:
    tables = read_toml(file, "config")
    if not isinstance(tables.get("compare"), dict):
        raise ConfigError(f"{file} has no table [compare].", param="config")
    return tables
