"""The `[[ensembles]]` of `penstock.toml`: named chains of models that end in one that generates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from penstock.core.errors import ConfigError
from penstock.core.setting_kinds import integer, names, number
from penstock.core.settings import config_file, read_tables
from penstock.core.suggest import did_you_mean
from penstock.models.encoder_files import is_encoder
from penstock.server.settings import model_name, model_names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from penstock.server.declared import DeclaredModel

StepKind = Literal["guard", "embed", "rerank", "generate"]
SECTION = "ensembles"

_KINDS: tuple[StepKind, ...] = get_args(StepKind)
# What a step may say beside its model; True where it must.
_OPTIONS: dict[StepKind, dict[str, bool]] = {
    "guard": {"refuse": True, "above": False},
    "embed": {"keep": True},
    "rerank": {"keep": True},
    "generate": {},
}
_READ: dict[str, Callable[[object], Any]] = {
    "refuse": names,
    "above": number(0, 1),
    "keep": integer(1),
    **dict.fromkeys(_KINDS, model_name),
}
_TAKES: dict[StepKind, str] = {
    "guard": "classifier",
    "embed": "embedder",
    "rerank": "reranker",
    "generate": "generator",
}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: what is done, by which model.

    Attributes:
        keep: how many documents go on, of a step that orders them.
        refuse: labels that end the request, of a guard.
        above: the probability of these beyond which they do.
    """

    kind: StepKind
    model: str
    keep: int = 0
    refuse: tuple[str, ...] = ()
    above: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """A chain of models under one name; the last step, and no other, generates."""

    name: str
    aliases: tuple[str, ...] = ()
    steps: tuple[Step, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All that clients may call it."""
        return (self.name, *self.aliases)

    @property
    def generator(self) -> str:
        """The model that answers."""
        return self.steps[-1].model

    @property
    def retrieves(self) -> bool:
        """Whether it chooses among the request's documents."""
        return any(step.keep for step in self.steps)


def read_ensembles() -> list[Ensemble]:
    """Those of the settings file. Raises ConfigError naming the table, the step and the setting at fault."""
    found: dict[str, str] = {}
    ensembles = []
    for index, table in enumerate(read_tables(SECTION)):
        place = f"[[{SECTION}]] {index + 1} in {config_file()}"
        ensembles.append(ensemble := _ensemble(table, place))
        for name in ensemble.names:
            if found.setdefault(name, place) != place:
                raise ConfigError(f"Two ensembles are called {name!r}. Give one another name.", param="name")
    return ensembles


def check_ensembles(ensembles: Sequence[Ensemble], models: Mapping[str, DeclaredModel]) -> None:
    """Hold ensembles against the models there are, by every name that a request may use.

    What a model does is read from its files, so that one which is loaded later counts as well. Raises ConfigError for
    a name that is a model's, for a step whose model isn't declared or can't do it, and for a label that isn't there.
    """
    for ensemble in ensembles:
        for name in ensemble.names:
            if name in models:
                raise ConfigError(f"An ensemble and a model are both called {name!r}.", param="name")
        for step in ensemble.steps:
            _check_step(step, f"The ensemble {ensemble.name!r}, step {step.kind!r}", models)


def _check_step(step: Step, place: str, models: Mapping[str, DeclaredModel]) -> None:
    if step.model not in models:
        hint = did_you_mean(step.model, models)
        raise ConfigError(f"{place}: no model {step.model!r} is declared.{hint}", param=step.kind)
    from penstock.models.encoder_spec import load_encoder_spec  # few servers have ensembles

    path = Path(models[step.model].config.model_path)
    spec = load_encoder_spec(path) if is_encoder(path) else None
    kind = "generator" if spec is None else spec.kind
    if kind != (wanted := _TAKES[step.kind]):
        raise ConfigError(
            f"{place}: the model {step.model!r} is of the kind '{kind}', and this takes one of the kind '{wanted}'.",
            param=step.kind,
        )
    labels = () if spec is None else spec.labels
    for label in step.refuse:
        if label not in labels:
            known = ", ".join(labels[:16])
            hint = did_you_mean(label, labels)
            raise ConfigError(
                f"{place}: the model {step.model!r} has no label {label!r}; there is {known}.{hint}", param="refuse"
            )


def _ensemble(table: dict[str, Any], place: str) -> Ensemble:
    _check_keys(table, {"name": True, "aliases": False, "steps": True}, place)
    try:
        name, aliases = model_name(table["name"]), model_names(table.get("aliases", ()))
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.message}", param="name") from error
    given = table["steps"]
    if not isinstance(given, list) or not given or not all(isinstance(step, dict) for step in given):
        raise ConfigError(f'{place}, steps: must be a list such as [{{ generate = "MODEL" }}]', param="steps")
    steps = [_step(step, f"{place}, step {index + 1}") for index, step in enumerate(given)]
    if [step.kind == "generate" for step in steps] != [False] * (len(steps) - 1) + [True]:
        raise ConfigError(f"{place}, steps: 'generate' must be the last step, and no other.", param="steps")
    return Ensemble(name=name, aliases=aliases, steps=tuple(steps))


def _step(table: dict[str, Any], place: str) -> Step:
    kinds = [kind for kind in _KINDS if kind in table]
    if len(kinds) != 1:
        hint = "".join(did_you_mean(name, _KINDS) for name in table) if not kinds else ""
        raise ConfigError(f"{place}: needs one of {', '.join(_KINDS)}, with a model's name.{hint}", param="steps")
    [kind] = kinds
    _check_keys(table, {kind: True, **_OPTIONS[kind]}, place)
    values = {}
    for name, value in table.items():
        try:
            values[name] = _READ[name](value)
        except ConfigError as error:
            raise ConfigError(f"{place}, {name}: {error.message} (it is {value!r})", param=name) from error
    if values.get("refuse") == ():
        raise ConfigError(f"{place}, refuse: must name a label", param="refuse")
    return Step(kind=kind, model=values.pop(kind), **values)


def _check_keys(table: dict[str, Any], known: Mapping[str, bool], place: str) -> None:
    for name in table:
        if name not in known:
            raise ConfigError(f"{place} has no setting {name!r}.{did_you_mean(name, known)}", param=name)
    for name, needed in known.items():
        if needed and name not in table:
            raise ConfigError(f"{place} has no {name!r}.", param=name)
