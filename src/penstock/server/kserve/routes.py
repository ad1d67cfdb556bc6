"""The protocol's endpoints over HTTP; paths with a model's version stand before those without."""

from __future__ import annotations

from typing import Any

from starlette.routing import Route, Router

from penstock.server.endpoint import BODY_ERRORS, GENERATION_ERRORS, Endpoint, routes_of
from penstock.server.kserve import generate_types, http, http_body, refused, types

_LENGTH: dict[str, dict[str, Any]] = {http_body.HEADER_LENGTH: {"type": "integer", "minimum": 0}}
_CONTROL_ERRORS = (*BODY_ERRORS, 422, 500, 503)


def _of_model(path: str) -> tuple[Endpoint, ...]:
    return (
        Endpoint(
            path + "/infer",
            "POST",
            http.infer,
            "Tensors in, tensors out",
            takes=http_body.InferBody,
            gives=types.InferAnswer,
            headers=_LENGTH,
            in_binary=True,
            errors=GENERATION_ERRORS,
            error_body=types.InferError,
        ),
        Endpoint(
            path + "/generate",
            "POST",
            http.generate,
            "A text in, a text out",
            takes=generate_types.GenerateBody,
            gives=generate_types.GenerateAnswer,
            errors=GENERATION_ERRORS,
            error_body=types.InferError,
        ),
        Endpoint(
            path + "/generate_stream",
            "POST",
            http.generate_stream,
            "A text in, pieces of a text out",
            takes=generate_types.GenerateBody,
            chunk=generate_types.GenerateAnswer,
            errors=GENERATION_ERRORS,
            error_body=types.InferError,
            events="plain",
        ),
        Endpoint(
            path + "/ready",
            "GET",
            http.model_ready,
            "Can the model serve now",
            gives_media="",
            errors=(404, 503),
            error_body=types.InferError,
        ),
        Endpoint(
            path + "/config",
            "GET",
            http.model_config,
            "A model's configuration",
            gives=types.ModelConfig,
            errors=(404,),
            error_body=types.InferError,
        ),
        Endpoint(
            path + "/stats",
            "GET",
            http.model_statistics,
            "Where a model's requests spent their time",
            gives=types.Statistics,
            errors=(404,),
            error_body=types.InferError,
        ),
        Endpoint(
            path,
            "GET",
            http.model_metadata,
            "What goes into a model and what comes out",
            gives=types.ModelMetadata,
            errors=(404,),
            error_body=types.InferError,
        ),
    )


_VERSIONED = _of_model("/v2/models/{model:path}/versions/{version}")
_PLAIN = _of_model("/v2/models/{model:path}")

ENDPOINTS = (
    Endpoint("/v2", "GET", http.server_metadata, "What the server is", gives=types.ServerMetadata),
    Endpoint("/v2/health/live", "GET", http.server_live, "Is the process alive", gives_media=""),
    Endpoint(
        "/v2/health/ready",
        "GET",
        http.server_ready,
        "Can every model serve now",
        gives_media="",
        errors=(503,),
        error_body=types.InferError,
    ),
    Endpoint("/v2/models/stats", "GET", http.statistics, "Of all models", gives=types.Statistics),
    Endpoint(
        "/v2/repository/index",
        "POST",
        http.repository_index,
        "The models there are",
        takes=http.IndexBody,
        needs_body=False,
        gives=list[types.ModelIndex],
        errors=(400, 408, 413),
        error_body=types.InferError,
    ),
    Endpoint(
        "/v2/repository/models/{model:path}/load",
        "POST",
        http.load_model,
        "Load a model",
        takes=http.ControlBody,
        needs_body=False,
        gives_media="",
        errors=_CONTROL_ERRORS,
        error_body=types.InferError,
    ),
    Endpoint(
        "/v2/repository/models/{model:path}/unload",
        "POST",
        http.unload_model,
        "Unload a model",
        takes=http.ControlBody,
        needs_body=False,
        gives_media="",
        errors=_CONTROL_ERRORS,
        error_body=types.InferError,
    ),
    *_VERSIONED[:-1],
    *_PLAIN[:-1],
    _VERSIONED[-1],  # its path would take what is below it for a version
    _PLAIN[-1],
)


def router() -> Router:
    """All of it, and the paths that are refused."""
    others = [Route("/v2/" + path, http.refusing(why), methods=["GET", "POST"]) for path, why in refused.PATHS.items()]
    # a model's name may hold slashes, so that its path would take these for a name
    others += [
        Route(each.path, http.only_posted, methods=["GET"])
        for each in ENDPOINTS
        if each.method == "POST" and each.path.startswith("/v2/models/")
    ]
    return Router([*others, *routes_of(ENDPOINTS)], redirect_slashes=False)
