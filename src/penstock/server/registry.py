"""The models of one server, by the names that clients ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.core.errors import NotFoundError
from penstock.server.responses import ModelCard
from penstock.server.served_model import ServedModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from penstock.engine.client import EngineClient
    from penstock.server.observe import Observer
    from penstock.server.served_model import ModelInUse


class ModelRegistry:
    """Finds models by name; a request that names none gets the first.

    Args:
        observer: where the models' requests are counted.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._served: dict[str, ServedModel] = {}  # by the served name
        self._names: dict[str, str] = {}  # every name, aliases too, to the served one
        observer.watch(self)

    def __iter__(self) -> Iterator[ServedModel]:
        """The models that are loaded."""
        return iter(self._served.values())

    @property
    def default(self) -> ServedModel:
        """The first model."""
        return next(iter(self))

    @property
    def names(self) -> tuple[str, ...]:
        """What clients may ask for."""
        return tuple(self._names)

    def add(self, engine: EngineClient, name: str, aliases: Sequence[str] = ()) -> ServedModel:
        """Serve an engine that has been started."""
        served = ServedModel(engine, name=name, version="1", observer=self._observer.of_model(name))
        self._served[name] = served
        self._names.update(dict.fromkeys((name, *aliases), name))
        return served

    async def use(self, name: str | None) -> ModelInUse:
        """The model for a request that asks for `name`. Raises NotFoundError for one that isn't served."""
        if name is None:
            return self.default.use(self.default.name)
        return self._find(name).use(name)

    def card(self, name: str) -> ModelCard:
        """What /v1/models says of one name. Raises NotFoundError."""
        served = self._find(name)
        return ModelCard(
            id=name, created=served.created, root=served.name, max_model_len=served.engine.info.max_model_len
        )

    async def close(self) -> None:
        """Close every model."""
        for served in self:
            await served.close()

    def _find(self, name: str) -> ServedModel:
        if name not in self._names:
            known = ", ".join(self._names)
            raise NotFoundError(
                f"The model {name[:256]!r} is not served here; there is {known}.", param="model", code="model_not_found"
            )
        return self._served[self._names[name]]
