"""What takes long for one request doesn't hold up the others."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from penstock.engine.structured import schemas
from support.asking import CHAT, COMPLETIONS
from support.eventually import eventually
from support.fake_engine import FakeEngine
from support.listening import client_of

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
MESSAGES = [{"role": "user", "content": "hi"}]
FORM = {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}
TOOLS = {"tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": MESSAGES, **FORM}),
        (CHAT, {"messages": MESSAGES, **TOOLS}),
        (COMPLETIONS, {"prompt": "hi", **FORM}),
        ("/v2/models/Echo-1B/generate", {"text_input": "hi", **FORM}),
    ],
    ids=["chat", "tools", "completion", "triton"],
)
def test_while_a_schema_is_read_other_requests_are_answered(
    echo_model: Path, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    begun, may_end, prepare = threading.Event(), threading.Event(), schemas.prepare

    def slow(*given: Any, **options: Any) -> dict[str, Any]:
        begun.set()
        assert may_end.wait(5), "the event loop stood still"
        return prepare(*given, **options)

    monkeypatch.setattr(schemas, "prepare", slow)

    async def run() -> None:
        async with client_of(FakeEngine(echo_model)) as client:
            asked = asyncio.create_task(client.post(path, json=body))
            await eventually(begun.is_set, "the schema is being read")
            assert (await client.post(COMPLETIONS, json={"prompt": "hi"})).status_code == 200
            may_end.set()
            assert (await asked).status_code == 200

    asyncio.run(run())
