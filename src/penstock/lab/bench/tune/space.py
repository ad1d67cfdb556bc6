"""What may be tried: settings of the engine, each with a few values, the engine's own default among them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from penstock.core.errors import ConfigError
from penstock.core.suggest import did_you_mean
from penstock.engine.runners.base import RunnerConfig
from penstock.engine.runners.threads import place_threads
from penstock.engine.settings import EngineSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Settings = dict[str, Any]  # by name, those alone that differ from the engine's defaults

DEFAULT = "default"  # as a file writes the engine's own choice, which may be no value that can be written
# They change what the model says, or how much it can be asked: never tried unless somebody says so.
LOSSY = frozenset({"dtype", "kv_cache_dtype", "quantization"})
_LOSSY_VALUES = {("speculation", "ngram"), ("speculation", "draft")}  # where they are exact they are the default
_NOT_SEARCHED = frozenset({
    "model", "draft_model", "runner", "device", "runner_cache", "allow_unverified", "lora_modules", "max_loras",
    "max_lora_rank", "max_model_len",
})  # fmt: skip
_FIELDS = {field.name: field for field in fields(EngineSettings)}


@dataclass(frozen=True, slots=True)
class Searched:
    """One setting. `values[default]` is the engine's own; in an ordered one, neighbours are alike."""

    name: str
    values: tuple[Any, ...]
    default: int
    ordered: bool

    @property
    def singles(self) -> tuple[Any, ...]:
        """The values that show best what it does by itself: all others, or of an ordered one the ends and those next
        to the default; where that is no number, the middle.
        """
        others = [at for at in range(len(self.values)) if at != self.default]
        if self.ordered:
            next_to = [self.default - 1, self.default + 1]
            if self.values[self.default] is None:
                next_to = [others[len(others) // 2]]
            others = [at for at in others if at in (others[0], others[-1], *next_to)]
        return tuple(self.values[at] for at in others)


@dataclass(frozen=True, slots=True)
class Space:
    """The settings that are searched, and those that are the same in every trial."""

    searched: tuple[Searched, ...]
    fixed: Mapping[str, Any]

    @property
    def size(self) -> int:
        """How many combinations there are, the defaults among them."""
        product = 1
        for each in self.searched:
            product *= len(each.values)
        return product

    def places(self, settings: Settings) -> dict[str, int]:
        """Each searched setting's place among its values."""
        return {
            each.name: each.values.index(settings[each.name]) if each.name in settings else each.default
            for each in self.searched
        }

    def settings(self, places: Mapping[str, int]) -> Settings:
        """The reverse of `places`."""
        return {
            each.name: each.values[places[each.name]] for each in self.searched if places[each.name] != each.default
        }

    def singles(self) -> list[Settings]:
        """Each setting by itself away from its default."""
        return [{each.name: value} for each in self.searched for value in each.singles]

    def describe(self) -> dict[str, Any]:
        """JSON values."""
        values = {each.name: [shown(each.name, value) for value in each.values] for each in self.searched}
        return {"searched": values, "fixed": dict(self.fixed)}


def default_of(name: str) -> Any:
    """The engine's own."""
    return _FIELDS[name].default


def shown(name: str, value: Any) -> Any:
    """As a file or a page has it: the engine's own choice by that word, where it is no value."""
    return DEFAULT if value is None and default_of(name) is None else value


def default_space(fixed: Mapping[str, Any], *, lossy: bool = False, tried: Mapping[str, Any] | None = None) -> Space:
    """What there is to tune on this machine.

    Left out are settings that trade one load for another (`max_num_seqs`, `enable_prefix_caching`): a measured load
    would set them to just what it needs.

    Args:
        fixed: settings of every trial; not searched.
        lossy: also those that change what the model says.
        tried: instead, by name, values of settings, from people: checked, not trusted.

    Raises:
        ConfigError: a setting that there isn't or that isn't searched, a value that it can't have, nothing to search.
    """
    fixed = {_name(name): read(_name(name), value) for name, value in fixed.items()}
    if "model" in fixed:
        raise ConfigError("The model is named by itself, as MODEL or in [tune]; it is no setting here.", param="model")
    chosen = _usual(fixed, lossy=lossy) if tried is None else {_name(name): value for name, value in tried.items()}
    searched = []
    for name, values in chosen.items():
        if name in fixed:
            if tried is None:
                continue
            raise ConfigError(f"{name} is both set and searched; leave it out of one of them.", param=name)
        if name in _NOT_SEARCHED:
            raise ConfigError(f"{name} says what is served, not how well: set it, don't search it.", param=name)
        each = _searched(name, values)
        _refuse_lossy(each, lossy=lossy)
        if len(each.values) > 1:
            searched.append(each)
    if not searched:
        raise ConfigError("There is nothing to search: every setting has a single value.", param="space")
    EngineSettings(**fixed)
    return Space(tuple(searched), fixed)


def read(name: str, value: Any) -> Any:
    """A value as the engine's settings read it. Raises ConfigError."""
    if value == DEFAULT or value is None:
        return default_of(name)
    return getattr(EngineSettings(**{name: value}), name)


def parse_fixed(lines: Iterable[str]) -> dict[str, Any]:
    """ "NAME=VALUE" each. Raises ConfigError."""
    found = {}
    for line in lines:
        name, equals, value = line.partition("=")
        if not equals or not value:
            raise ConfigError(f"{line!r} is no setting: write NAME=VALUE, as in max-model-len=4096.", param="set")
        found[_name(name.strip())] = value.strip()
    return found


def changes(settings: Settings) -> str:
    """In words, for a line of progress."""
    return ", ".join(f"{name} {_word(value)}" for name, value in settings.items()) or "the defaults"


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _usual(fixed: Mapping[str, Any], *, lossy: bool) -> dict[str, Sequence[Any]]:
    found: dict[str, Sequence[Any]] = {
        "max_num_batched_tokens": (256, 512, 1024, 2048, 4096, 8192),
        "max_prefill_tokens_while_decoding": (16, 32, 64, 128, 256, 512, 1024),
        "block_size": (8, 16, 32, 64, 128),
        "speculation": ("off",),
    }
    if fixed.get("device", "auto") in ("auto", "cpu"):
        cores = place_threads(RunnerConfig(model_path="")).threads  # as many as the default takes
        found["threads"] = sorted({1, cores // 4, cores // 2, cores * 3 // 4, cores - 1} - {0, cores})
        found["pin_threads"] = ("on", "off")
    if lossy:
        found["kv_cache_dtype"] = ("float32", "float16", "bfloat16", "int8")
    return found


def _searched(name: str, values: object) -> Searched:
    if not isinstance(values, list | tuple) or not values:
        raise ConfigError(f"The space has a list of values for {name}; got {values!r}.", param=name)
    own = default_of(name)
    known = list(dict.fromkeys(read(name, value) for value in values))
    if own not in known:
        known.append(own)
    numbers = [value for value in known if value is not None]
    ordered = len(numbers) > 1 and all(isinstance(value, int | float) and not isinstance(value, bool)
                                       for value in numbers)  # fmt: skip
    if ordered:
        # "As the device can" has no place among numbers; below them it is at least next to the most careful one.
        known.sort(key=lambda value: (value is not None, value or 0))
    return Searched(name, tuple(known), known.index(own), ordered)


def _refuse_lossy(each: Searched, *, lossy: bool) -> None:
    if lossy:
        return
    own = each.values[each.default]
    for value in each.values:
        if value != own and (each.name in LOSSY or (each.name, value) in _LOSSY_VALUES):
            raise ConfigError(
                f"{each.name} = {value!r} may change what the model says: add --allow-lossy (allow_lossy = true) to"
                " have it tried.",
                param=each.name,
            )


def _name(name: str) -> str:
    name = name.replace("-", "_")
    if name not in _FIELDS:
        raise ConfigError(f"The engine has no setting {name!r}.{did_you_mean(name, list(_FIELDS))}", param=name)
    return name
