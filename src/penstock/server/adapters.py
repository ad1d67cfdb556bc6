"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter, in vLLM's shapes.

Who may send requests may load what lies below one directory, which whoever runs the server has to name. Without it
nothing is loaded at run time: a client must not make the server read files of its choice.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse

from penstock.core.errors import InvalidRequestError, ModelFileError, NotFoundError
from penstock.server.body import BodyReader
from penstock.server.manifest.adapters import LOAD_ADAPTER, UNLOAD_ADAPTER
from penstock.server.requests import LoadAdapterRequest, UnloadAdapterRequest

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response

    from penstock.server.service import Service

_load_body = BodyReader(LoadAdapterRequest, LOAD_ADAPTER)
_unload_body = BodyReader(UnloadAdapterRequest, UNLOAD_ADAPTER)


async def load_adapter(http: Request) -> Response:
    """Serve an adapter under a name of its own."""
    service: Service = http.app.state.service
    request, headers = await _load_body.read(http, service.settings.max_body_bytes)
    allowed = _allowed(service)
    if not request.lora_name.isprintable() or not request.lora_name.strip():
        raise InvalidRequestError("'lora_name' must be printable.", param="lora_name", code="invalid_value")
    path = await asyncio.to_thread(_below, allowed, request.lora_path)
    try:
        await service.models.load_adapter(request.lora_name, str(path), request.base_model_name)
    except (ModelFileError, NotFoundError) as error:
        error.param = error.param or "lora_path"
        error.code = error.code or "invalid_adapter"
        raise
    return PlainTextResponse(f"The adapter {request.lora_name!r} is loaded.", headers=headers)


async def unload_adapter(http: Request) -> Response:
    """Take no more requests for an adapter; those that it has are finished."""
    service: Service = http.app.state.service
    request, headers = await _unload_body.read(http, service.settings.max_body_bytes)
    _allowed(service)
    await service.models.unload_adapter(request.lora_name)
    return PlainTextResponse(f"The adapter {request.lora_name!r} is unloaded.", headers=headers)


def _allowed(service: Service) -> Path:
    """The directory that adapters may be loaded from. Raises InvalidRequestError if there is none."""
    if service.settings.lora_dir is None:
        raise InvalidRequestError(
            "This server doesn't load or unload adapters while it runs: it was started without --lora-dir.",
            code="runtime_lora_disabled",
        )
    return service.settings.lora_dir


def _below(allowed: Path, asked: str) -> Path:
    """The directory that is asked for, where relative paths begin at the allowed one and no link leads out of it."""
    try:
        path = (allowed / asked).resolve()
        is_inside = path.is_relative_to(allowed.resolve())
        exists = is_inside and path.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # a null byte, a loop of links
        raise InvalidRequestError("'lora_path' can't be a path.", param="lora_path", code="invalid_value") from error
    if not is_inside:
        raise InvalidRequestError(
            "'lora_path' must be below the server's --lora-dir.", param="lora_path", code="lora_path_not_allowed"
        )
    if not exists:
        raise NotFoundError(
            f"There is no directory {asked[:256]!r} for adapters here.", param="lora_path", code="adapter_not_found"
        )
    return path
