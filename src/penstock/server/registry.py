"""The models of one server, by the names that clients ask for."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from penstock.core.errors import ConfigError, EngineDeadError, InvalidRequestError, NotFoundError, PenstockError
from penstock.server.declared import of_model
from penstock.server.ensembles.declared import check_ensembles
from penstock.server.ensembles.in_use import EnsembleInUse
from penstock.server.figures import figures
from penstock.server.model_entry import ModelEntry
from penstock.server.responses import ModelCard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from penstock.server.declared import DeclaredModel
    from penstock.server.engines import Engine
    from penstock.server.ensembles.declared import Ensemble
    from penstock.server.model_entry import MakeEngine
    from penstock.server.observe import Observer
    from penstock.server.served_encoder import EncoderInUse, ServedEncoder
    from penstock.server.served_model import ModelInUse, ServedModel

log = logging.getLogger(__name__)

IDLE_LOOK_SECONDS = 60.0  # how often to look for idle models where none has said how long it may be


class ModelRegistry:
    """Finds models by name, and brings them into memory and out of it. A request that names none gets the first.

    Args:
        observer: where the models' requests are counted.
        make_engine: an engine for a configuration, not started.
        declare: reads again what is to be served; called in a thread.
        declare_ensembles: reads the ensembles; called at the start too.
    """

    def __init__(
        self,
        observer: Observer,
        make_engine: MakeEngine,
        declare: Callable[[], Sequence[DeclaredModel]] | None = None,
        declare_ensembles: Callable[[], Sequence[Ensemble]] = tuple,
    ) -> None:
        self._observer = observer
        self._make_engine = make_engine
        self._declare = declare
        self._declare_ensembles = declare_ensembles
        self._ensembles: dict[str, Ensemble] = {}  # by every name
        self.entries: list[ModelEntry] = []
        self._gone: list[ModelEntry] = []  # not declared any more, with requests that may still run
        self._ending = False
        self._names: dict[str, ModelEntry] = {}
        self._listed: list[str] = []
        self._changes = asyncio.Lock()
        observer.metrics.read_at_scrape(lambda: figures(self))

    def __iter__(self) -> Iterator[ServedModel | ServedEncoder]:
        """The models that are in memory."""
        return (entry.served for entry in self.entries if entry.served is not None)

    @property
    def default(self) -> ModelEntry:
        """The first model."""
        return self.entries[0]

    @property
    def names(self) -> list[str]:
        """What clients may ask for now."""
        models = [name for name in self._listed if self._names[name].state != "unloaded"]
        return models + [name for name in self._ensembles if self._whole(name)]

    @property
    def ensembles(self) -> list[Ensemble]:
        """Those that are served."""
        return list(dict.fromkeys(self._ensembles.values()))

    async def serve(self, declared: Sequence[DeclaredModel]) -> None:
        """Load the models, one after the other: each takes its share of the memory that the others left.

        Raises ConfigError for a name that two of them bear, for an ensemble that can't be, and what an engine fails
        to start with.
        """
        self._check_names(declared)
        ensembles = self._declare_ensembles()
        if all(model.name for model in declared):  # else it is known only once it is loaded
            self._check_ensembles(ensembles, declared)
        for model in declared:
            entry = self._new(model)
            if model.preload:
                await self._load_first(entry, alone=len(declared) == 1)
            self._name_all()
        self._check_ensembles(ensembles, declared)
        self._name_ensembles(ensembles)

    def adopt(self, model: DeclaredModel, engine: Engine) -> None:
        """Serve an engine that has been started."""
        self._new(model).adopt(engine)
        self._name_all()

    async def use(self, name: str | None) -> ModelInUse:
        """The generating model for a request that asks for `name`, loaded first if it is asleep.

        Raises NotFoundError for one that isn't served, InvalidRequestError for one that doesn't generate,
        EngineDeadError for one that can't be loaded.
        """
        entry = self.default if name is None else self.find(name)
        return await entry.use(name or entry.name)

    async def use_for_chat(self, name: str | None) -> ModelInUse:
        """As `use`; an ensemble's name gives the model that answers for it."""
        ensemble = None if name is None else self._ensembles.get(name)
        if ensemble is None or name is None:
            return await self.use(name)
        model = await self.use(ensemble.generator)
        model.name = name
        model.ensemble = EnsembleInUse(ensemble, self.use_any, self._observer.metrics)
        return model

    async def use_any(self, name: str | None) -> ModelInUse | EncoderInUse:
        """As `use`, whatever the model does."""
        entry = self.default if name is None else self.find(name)
        return await entry.use_any(name or entry.name)

    def find(self, name: str, version: str = "") -> ModelEntry:
        """The entry of a name, or of one version of it.

        Raises NotFoundError, and InvalidRequestError for an ensemble's name.
        """
        if name in self._ensembles:
            raise InvalidRequestError(
                f"{name!r} is an ensemble, which answers conversations: send it to /v1/chat/completions, /v1/responses "
                "or /v1/messages.",
                param="model",
                code="wrong_model_kind",
            )
        asked = f"{name}@{version}" if version else name
        if asked not in self._names:
            known = ", ".join(self.names)
            raise NotFoundError(
                f"The model {asked[:256]!r} is not served here; there is {known}.",
                param="model",
                code="model_not_found",
            )
        return self._names[asked]

    def find_all(self, name: str) -> list[ModelEntry]:
        """The entries that a request for this name needs: an ensemble's are several. Raises NotFoundError."""
        ensemble = self._ensembles.get(name)
        return [self.find(name)] if ensemble is None else [self.find(step.model) for step in ensemble.steps]

    def card(self, name: str) -> ModelCard:
        """What /v1/models says of one name. Raises NotFoundError."""
        if name in self._ensembles:
            if not self._whole(name):
                raise NotFoundError(f"A model of {name[:256]!r} is not loaded.", param="model", code="model_not_found")
            last = self.find_all(name)[-1]
            root = self._ensembles[name].name
            return ModelCard(id=name, created=last.created, root=root, max_model_len=last.context)
        entry = self.find(name)
        if entry.state == "unloaded":
            raise NotFoundError(f"The model {name[:256]!r} is not loaded.", param="model", code="model_not_found")
        if name in entry.adapters:
            return ModelCard(
                id=name,
                created=entry.created,
                root=entry.adapters[name],
                parent=entry.name,
                max_model_len=entry.context,
            )
        return ModelCard(id=name, created=entry.created, root=entry.name, max_model_len=entry.context)

    async def load_adapter(self, name: str, path: str, base: str | None) -> None:
        """Serve an adapter of the model `base`, by default the first.

        Raises NotFoundError for a model that isn't served, InvalidRequestError for a name that is taken, and what the
        adapter can't be loaded for.
        """
        async with self._changes:
            entry = self.default if base is None else self.find(base)
            if name in self._names or name in self._ensembles:
                raise InvalidRequestError(
                    f"{name!r} is served already. Unload that adapter first, or give this one another name.",
                    param="lora_name",
                    code="adapter_exists",
                )
            await entry.load_adapter(name, path)
            self._name_all()

    async def unload_adapter(self, name: str) -> None:
        """Take no more requests for an adapter; those that it has are finished. Raises NotFoundError."""
        async with self._changes:
            entry = self._names.get(name)
            if entry is None or name not in entry.adapters:
                raise NotFoundError(f"No adapter {name[:256]!r} is loaded.", param="lora_name", code="model_not_found")
            entry.unload_adapter(name)
            self._name_all()

    async def reload(self, name: str) -> None:
        """Load a model as it is declared now: one that is there already is swapped, without a request lost.

        Raises NotFoundError if nothing of that name is declared, ConfigError for declarations that can't be, and what
        an engine fails to start with; the model that was there then stays.
        """
        async with self._changes:
            declared = await self._declared()
            self._check_names(declared)
            found = [model for model in declared if self._name_of(model) == name]
            if not found:
                raise NotFoundError(f"No model {name[:256]!r} is declared.", param="model", code="model_not_found")
            try:
                for model in found:
                    await (self._entry_of(model) or self._new(model)).load(model)
            finally:
                self._name_all()

    async def unload(self, name: str) -> None:
        """Take a model, all its versions, out of memory once its requests are done. Raises NotFoundError."""
        async with self._changes:
            self.find(name)
            for entry in self.entries:
                if entry.name == name:
                    await entry.unload()

    async def refresh(self) -> None:
        """Serve what is declared now: load what is new, swap what has changed, unload what is gone.

        A model that fails to load is logged; the others go on. Raises ConfigError for declarations that can't be.
        """
        async with self._changes:
            declared = await self._declared()
            self._check_names(declared)
            ensembles = await asyncio.to_thread(self._declare_ensembles)
            self._check_ensembles(ensembles, declared)
            gone = [entry for entry in self.entries if not any(_is_of(model, entry) for model in declared)]
            for model in declared:
                entry = self._entry_of(model)
                try:
                    if entry is None:
                        entry = self._new(model)
                        if model.preload:
                            await entry.load()
                    else:
                        await entry.redeclare(model)
                except PenstockError as error:
                    log.error("%s could not be loaded: %s", model.name, error.message)  # noqa: TRY400
            for entry in gone:
                await entry.unload()
            self._gone = [entry for entry in (*self._gone, *gone) if entry.retires]
            self.entries = [entry for model in declared if (entry := self._entry_of(model)) is not None]
            self._name_all()
            self._name_ensembles(ensembles)

    async def watch_idle(self) -> None:
        """Put models to sleep that nobody has used for as long as they may be idle; never returns."""
        while True:
            left = [IDLE_LOOK_SECONDS]
            for entry in self.entries:
                idle, limit = entry.idle_for(time.monotonic()), entry.declared.idle_unload
                if idle is None or limit is None:
                    continue
                if idle >= limit:
                    await entry.sleep()
                else:
                    left.append(limit - idle)
            await asyncio.sleep(min(left))

    async def drain(self, timeout: float) -> bool:  # noqa: ASYNC109 - as EngineClient has it
        """Refuse new requests and wait for those in flight; False if some were left."""
        self._ending = True
        return all(await asyncio.gather(*(entry.drain(timeout) for entry in (*self.entries, *self._gone))))

    async def close(self) -> None:
        """Close every model."""
        self._ending = True
        for entry in (*self.entries, *self._gone):
            await entry.close()

    async def _declared(self) -> Sequence[DeclaredModel]:
        if self._declare is None:
            declared: Sequence[DeclaredModel] = [entry.declared for entry in self.entries]
        else:
            declared = await asyncio.to_thread(self._declare)
        self._check_open()
        return declared

    async def _load_first(self, entry: ModelEntry, *, alone: bool) -> None:
        """Raises what the engine fails to start with; of several models it says which."""
        try:
            await entry.load()
        except PenstockError as error:
            if alone or entry.declared.name is None:
                raise
            raise of_model(entry.declared.name, error) from error

    def _check_open(self) -> None:
        if self._ending:
            raise EngineDeadError("The server is shutting down and loads no models.", code="engine_draining")

    def _new(self, model: DeclaredModel) -> ModelEntry:
        self._check_open()
        entry = ModelEntry(model, self._make_engine, self._observer)
        if not model.preload:
            entry.sleep_from_the_start()
        self.entries.append(entry)
        return entry

    def _entry_of(self, model: DeclaredModel) -> ModelEntry | None:
        return next((entry for entry in self.entries if _is_of(model, entry)), None)

    def _name_of(self, model: DeclaredModel) -> str | None:
        entry = self._entry_of(model)
        return model.name if entry is None else entry.name

    def _check_names(self, declared: Sequence[DeclaredModel]) -> None:
        """Raises ConfigError for a name that two models bear."""
        bearers: dict[str, str | None] = {}
        versions: set[tuple[str | None, str]] = set()
        for model in declared:
            own = self._name_of(model)
            for adapter, _ in model.config.lora_modules:
                if adapter in (own, *model.aliases):
                    raise ConfigError(f"A model and its adapter are both served as {adapter!r}.", param="lora_modules")
            for name in (own, *model.aliases, *dict(model.config.lora_modules)):
                if name is not None and bearers.setdefault(name, own) != own:
                    raise ConfigError(f"Two models are served as {name!r}. Give one another name.", param="aliases")
            if (own, model.version) in versions:
                raise ConfigError(
                    f"Two models are served as {own!r}, version {model.version}. Give one another version.",
                    param="version",
                )
            versions.add((own, model.version))

    def _check_ensembles(self, ensembles: Sequence[Ensemble], declared: Sequence[DeclaredModel]) -> None:
        """Raises ConfigError for one that these models can't make."""
        models = {adapter: entry.declared for entry in self.entries for adapter in entry.adapters}
        for model in declared:
            own = self._name_of(model)
            for name in (own, f"{own}@{model.version}", *model.aliases, *dict(model.config.lora_modules)):
                if own is not None and name is not None:
                    models[name] = model
        check_ensembles(ensembles, models)

    def _name_ensembles(self, ensembles: Sequence[Ensemble]) -> None:
        self._ensembles = {name: ensemble for ensemble in ensembles for name in ensemble.names}

    def _whole(self, name: str) -> bool:
        """Whether no model of an ensemble was taken out of memory for good."""
        needed = [self._names.get(step.model) for step in self._ensembles[name].steps]
        return all(entry is not None and entry.state != "unloaded" for entry in needed)

    def _name_all(self) -> None:
        """Every name to its entry, the last of several versions."""
        adapters = {name: entry for entry in self.entries for name in entry.adapters}
        names = {name: entry for entry in self.entries for name in (entry.name, *entry.declared.aliases)}
        names = {**names, **{name: entry for name, entry in adapters.items() if name not in names}}
        versioned = {f"{entry.name}@{entry.declared.version}": entry for entry in self.entries}
        several = {entry.name for entry in self.entries if names[entry.name] is not entry}
        self._names = {**versioned, **names}
        self._listed = [*names, *(name for name, entry in versioned.items() if entry.name in several)]


def _is_of(model: DeclaredModel, entry: ModelEntry) -> bool:
    """Whether a declaration is that of an entry, be it in another wording."""
    return (model.name, model.version) == (entry.declared.name, entry.declared.version)
