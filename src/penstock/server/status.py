"""What the server says of itself: models, health, readiness, version, latency and metrics."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from starlette.responses import Response

import penstock
from penstock.core.errors import EngineDeadError, InvalidRequestError
from penstock.server.responses import Health, ModelList, Ready, Version
from penstock.server.service import json_response

if TYPE_CHECKING:
    from starlette.requests import Request

    from penstock.server.registry import ModelRegistry
    from penstock.server.service import Service

NO_STORE = {"cache-control": "no-store"}

NOT_READY = {
    "starting": "The engine is starting.",
    "restarting": "The engine core died and is being started again.",
    "draining": "The server is shutting down.",
    "stopped": "The engine has stopped.",
    "loading": "The model is being loaded.",
    "failed": "The model could not be loaded; the server's log says why.",
    "unloaded": "The model is not loaded.",
}


async def list_models(http: Request) -> Response:
    """Every name the model answers to."""
    service: Service = http.app.state.service
    return json_response(ModelList(data=[service.models.card(name) for name in service.models.names]))


async def show_model(http: Request) -> Response:
    """One of those names."""
    service: Service = http.app.state.service
    return json_response(service.models.card(http.path_params["model"]))


async def health(http: Request) -> Response:
    """200 for as long as this process lives, whatever the engines do."""
    models: ModelRegistry = http.app.state.service.models
    return json_response(
        Health(
            engine=models.default.state,
            restarts=sum(model.engine.restarts for model in models),
            models={entry.label: entry.state for entry in models.entries},
        ),
        NO_STORE,
    )


async def ready(http: Request) -> Response:
    """200 if a request would be taken now, for any of the models or the one that is asked about."""
    models: ModelRegistry = http.app.state.service.models
    asked = http.query_params.get("model")
    for entry in models.entries if asked is None else models.find_all(asked):
        if not entry.can_serve and (asked is not None or entry.state != "unloaded"):
            whose = f"{entry.label}: " if len(models.entries) > 1 else ""
            raise EngineDeadError(whose + NOT_READY[entry.state], code=f"engine_{entry.state}")
    return json_response(Ready(), NO_STORE)


async def version(http: Request) -> Response:
    """What runs here, on what."""
    service: Service = http.app.state.service
    entry = service.models.default
    return json_response(
        Version(version=penstock.__version__, model=entry.name, max_model_len=entry.context, runner=entry.runner)
    )


async def latency(http: Request) -> Response:
    """The latest requests against a target, from the query or the settings."""
    service: Service = http.app.state.service
    target = service.settings.latency_target_ms
    given = http.query_params.get("target_ms")
    if given is not None:
        target = _milliseconds(given)
    return json_response(service.observer.latency.report(target), NO_STORE)


async def metrics(http: Request) -> Response:
    """The metric table, in the format that the scraper asks for."""
    service: Service = http.app.state.service
    body, content_type = service.observer.metrics.expose(http.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type, **NO_STORE})


def _milliseconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (isfinite(value) and value > 0):
        raise InvalidRequestError(
            f"'target_ms' must be a number of milliseconds above 0, not {text[:64]!r}.",
            param="target_ms",
            code="invalid_value",
        )
    return value
