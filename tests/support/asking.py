"""One request to an application in this process, without a socket."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx

from penstock.server.settings import ServerSettings
from support.listening import app_over

if TYPE_CHECKING:
    from penstock.engine.client import EngineClient

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"


def ask(
    engine: EngineClient,
    method: str,
    path: str,
    body: Any = None,
    *,
    headers: dict[str, str] | None = None,
    **settings: Any,
) -> httpx.Response:
    """The answer of a fresh application; `body` is JSON, or bytes sent as they are."""

    async def run() -> httpx.Response:
        app = app_over(engine, ServerSettings(**settings))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            return await client.request(method, path, content=content, headers=headers)

    return asyncio.run(run())


def events(text: str) -> list[Any]:
    """The data of each event of a stream, JSON decoded; "[DONE]" as it is."""
    frames = [frame for frame in text.split("\n\n") if frame and not frame.startswith(":")]
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames), text
    data = [frame.removeprefix("data: ") for frame in frames]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of an answer, which must have exactly OpenAI's shape."""
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    return error
