"""Endpoints that are imported at need: which there are, and that nobody can tell them from the others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest

from penstock.server.batches.endpoints import BATCH_ENDPOINTS
from penstock.server.endpoints import ENDPOINTS
from penstock.server.routes import GROUPS
from penstock.server.settings import ServerSettings
from penstock.server.websocket import WEBSOCKET_ENDPOINTS
from support.asking import CHAT, ask, error_of
from support.fake_engine import FakeEngine
from support.listening import app_over

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.server.endpoint import EndpointGroup


def of_module(group: EndpointGroup) -> str:
    return group.module


@pytest.mark.parametrize("group", GROUPS, ids=of_module)
def test_a_groups_prefixes_are_those_of_its_endpoints_and_of_no_others(group: EndpointGroup) -> None:
    own = group.endpoints()
    paths = {path for endpoint in own for path in (endpoint.path, *endpoint.aliases)}
    foreign = {path for each in ENDPOINTS if each not in own for path in (each.path, *each.aliases)}
    for prefix in group.prefixes:
        assert prefix in paths
    for path in paths:
        assert any(path == prefix or path.startswith(prefix + "/") for prefix in group.prefixes), path
    for path in foreign:
        assert not any(path == prefix or path.startswith(prefix + "/") for prefix in group.prefixes), path


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("POST", "/chat/completions", "There is /v1/chat/completions: "),
        ("POST", "/v1/v1/messages", "There is /v1/messages: "),
        ("GET", "/models", "There is /v1/models: "),
        ("POST", "/embeddings", "There is /v1/embeddings: "),
        ("GET", "/v1/", "/openapi.json lists"),
        ("POST", "/v1/chat/completion", "/openapi.json lists"),
        ("GET", "/v1/stream", "It is a WebSocket"),
    ],
)
def test_a_path_that_is_not_there_is_told_what_was_meant(echo_model: Path, method: str, path: str, said: str) -> None:
    response = ask(FakeEngine(echo_model), method, path)
    assert response.status_code == 404
    assert f"There is nothing at {method} {path}. {said}" in response.json()["error"]["message"]


def test_what_a_batch_or_a_websocket_may_go_to_is_there() -> None:
    posts = {path for each in ENDPOINTS if each.method == "POST" for path in (each.path, *each.aliases)}
    assert {*BATCH_ENDPOINTS, *WEBSOCKET_ENDPOINTS} <= posts


def test_requests_to_late_endpoints_are_refused_and_counted_as_all_others(echo_model: Path) -> None:
    async def work() -> str:
        transport = httpx.ASGITransport(app_over(FakeEngine(echo_model), ServerSettings()))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            assert (await client.post("/v1/rerank", json={})).status_code == 400
            early, late = await client.get("/v1/file"), await client.get("/v1/files/a/b/c")
            assert early.status_code == late.status_code == 404
            assert error_of(early)["message"] == error_of(late)["message"].replace("/v1/files/a/b/c", "/v1/file")
            early, late = await client.get(CHAT), await client.get("/tokenize")
            assert early.status_code == late.status_code == 405
            assert early.headers["allow"] == late.headers["allow"]
            assert error_of(early)["message"] == error_of(late)["message"].replace("/tokenize", CHAT)
            assert (await client.get("/tokenizer_info/")).status_code == 404, "no detour"
            return (await client.get("/metrics")).text

    counted = asyncio.run(work())
    for method, route, status in (
        ("POST", "/v1/rerank", 400),
        ("GET", "other", 404),
        ("GET", CHAT, 405),
        ("GET", "/tokenize", 405),
    ):
        assert f'method="{method}",route="{route}",status="{status}"' in counted
