"""The OpenAPI document (https://spec.openapis.org/oas/v3.1.0), made from the endpoints' own types."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, get_args, get_origin

import msgspec

import penstock
from penstock.server.endpoints import DOCUMENTED
from penstock.server.responses import ErrorBody

if TYPE_CHECKING:
    from penstock.server.endpoint import Endpoint

_BYTES = "application/octet-stream"
_REFERENCE = "#/components/schemas/{name}"


def openapi_document(*, needs_key: bool, public_paths: frozenset[str]) -> dict[str, Any]:
    """The document of a server.

    Args:
        needs_key: whether clients have to send an API key.
        public_paths: paths that need none all the same.
    """
    types = {kind for each in DOCUMENTED for kind in (each.takes, each.gives, each.chunk, each.error_body) if kind}
    ordered = sorted(types | {ErrorBody}, key=str)
    _, components = msgspec.json.schema_components(ordered, ref_template=_REFERENCE)
    paths: dict[str, Any] = {}
    for endpoint in DOCUMENTED:
        secured = needs_key and endpoint.path not in public_paths
        path = endpoint.path.replace(":path}", "}")
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, secured=secured)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Penstock",
            "version": penstock.__version__,
            "description": "The APIs of OpenAI, Anthropic and Triton. Fields that are unknown or have no effect are "
            "accepted and named in the response header x-penstock-ignored-fields; below /v2 they are refused.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }
    if needs_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document


def _operation(endpoint: Endpoint, *, secured: bool) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.handler.__name__ + ("_of_version" if "{version}" in endpoint.path else ""),
        "summary": endpoint.summary,
        "responses": {"200": _success(endpoint)},
    }
    for code in sorted({*endpoint.errors, *((401,) if secured else ())}):
        operation["responses"][str(code)] = {
            "description": HTTPStatus(code).phrase,
            "content": {"application/json": {"schema": _reference(endpoint.error_body)}},
        }
    if endpoint.takes is not None:
        content = {endpoint.media: {"schema": _reference(endpoint.takes)}}
        if endpoint.in_binary:
            content[_BYTES] = {"schema": {"type": "string", "format": "binary"}}
        operation["requestBody"] = {"required": endpoint.needs_body, "content": content}
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": place, "schema": schema}
        for place, given in (("query", endpoint.query), ("header", endpoint.headers))
        for name, schema in (given or {}).items()
    ]
    parameters += [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)", endpoint.path)
    ]
    if parameters:
        operation["parameters"] = parameters
    if secured:
        operation["security"] = [{"key": []}]
    return operation


def _success(endpoint: Endpoint) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if endpoint.gives is not None:
        content["application/json"] = {"schema": _reference(endpoint.gives)}
    if endpoint.in_binary:
        content[_BYTES] = {"schema": {"type": "string", "format": "binary"}}
    if endpoint.chunk is not None:
        content["text/event-stream"] = {"schema": _event_of(endpoint)}
    if not content and endpoint.gives_media:
        content[endpoint.gives_media] = {"schema": {"type": "string"}}
    if not content:
        return {"description": "OK"}
    return {"description": "OK", "content": content}


def _event_of(endpoint: Endpoint) -> dict[str, Any]:
    """One server-sent event, as OpenAPI describes a stream: by its items."""
    assert endpoint.chunk is not None  # else it gives no stream
    in_json: dict[str, Any] = {"type": "string", "contentMediaType": "application/json"}
    if endpoint.events == "plain":
        body = {"anyOf": [_reference(endpoint.chunk), _reference(endpoint.error_body)]}
        properties: dict[str, Any] = {"data": {**in_json, "contentSchema": body}}
        return {"type": "object", "properties": properties, "required": ["data"]}
    if endpoint.events == "named":
        data = {**in_json, "contentSchema": _reference(endpoint.chunk)}
        properties = {"event": {"type": "string"}, "data": data}
        return {"type": "object", "properties": properties, "required": ["event", "data"]}
    body = {"anyOf": [_reference(endpoint.chunk), _reference(ErrorBody)]}
    in_json["contentSchema"] = body
    described = "[DONE] ends an answer; an error ends one that failed midway."
    data = {"anyOf": [{"const": "[DONE]"}, in_json], "description": described}
    return {"type": "object", "properties": {"data": data}, "required": ["data"]}


def _reference(kind: type) -> dict[str, Any]:
    if get_origin(kind) is list:
        return {"type": "array", "items": _reference(*get_args(kind))}
    return {"$ref": _REFERENCE.format(name=kind.__name__)}
