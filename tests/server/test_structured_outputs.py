"""What is asked for in structure comes out so: two hundred schemas, regular expressions, choices, grammars."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest

from penstock.engine.client import EngineClient
from penstock.engine.config import EngineConfig
from support.asking import CHAT, events
from support.listening import client_of
from support.schemas import COUNT, schemas
from support.tiny_chat import write_tiny_chat

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import httpx

MESSAGES = [{"role": "user", "content": "Answer in JSON."}]
# A model of random weights draws any byte: these let it end what it began.
ENDINGS = '"}],'
CONTEXT = 1024


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("tiny"), max_position_embeddings=CONTEXT)


def with_model(path: Path, work: Callable[[httpx.AsyncClient], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        settings = {"dtype": "float32", "kv_memory": 128 << 20, "threads": 1, "runner_cache": False, **options}
        engine = EngineClient(EngineConfig(model_path=str(path), **settings))
        await engine.start()
        async with client_of(engine) as client:
            client.timeout = 60
            await work(client)

    asyncio.run(run())


def chat(**fields: Any) -> dict[str, Any]:
    bias = {str(5 + _alphabet().index(symbol)): 3 for symbol in ENDINGS}
    return {"messages": MESSAGES, "max_tokens": 500, "seed": 1, "logit_bias": bias, **fields}


def _alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def response_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


async def text_of(client: httpx.AsyncClient, body: dict[str, Any], path: str = CHAT) -> tuple[str, str]:
    """Text and finish reason of the one choice, streamed or not."""
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    if not body.get("stream"):
        [choice] = answer.json()["choices"]
        return choice["message"]["content"] if path == CHAT else choice["text"], choice["finish_reason"]
    parts = [choice for event in events(answer.text)[:-1] for choice in event["choices"]]
    assert not any("error" in event for event in events(answer.text)[:-1])
    texts = [(part["delta"].get("content") if path == CHAT else part["text"]) or "" for part in parts]
    return "".join(texts), parts[-1]["finish_reason"]


def assert_valid(text: str, schema: dict[str, Any]) -> None:
    validator = jsonschema_rs.validator_for(schema, validate_formats=True)
    value = json.loads(text)
    assert validator.is_valid(value), (schema, text, next(iter(validator.iter_errors(value))).message)


@pytest.mark.parametrize("stream", [False, True])
def test_given_200_schemas_when_a_model_draws_at_random_then_all_that_ends_validates(model: Path, stream: bool) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        asked = schemas()
        assert len(asked) == COUNT
        bodies = [chat(response_format=response_format(schema), stream=stream) for schema in asked]
        outputs = await asyncio.gather(*(text_of(client, body) for body in bodies))
        for (text, reason), schema in zip(outputs, asked, strict=True):
            if reason == "stop":
                assert_valid(text, schema)
        reasons = Counter(reason for _, reason in outputs)
        assert set(reasons) <= {"stop", "length"}
        assert reasons["stop"] > 0.9 * COUNT
        counted = (await client.get("/metrics")).text
        outcomes = dict(re.findall(r'penstock_structured_outputs_total\{.*outcome="(\w+)"\} (\d+)', counted))
        assert (int(outcomes["complete"]), int(outcomes["cut"])) == (reasons["stop"], reasons["length"])

    with_model(model, work, max_num_seqs=64)


def test_given_schemas_when_the_real_model_answers_then_all_that_ends_validates(smollm2_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        asked = schemas()[::10]
        bodies = [
            {"messages": MESSAGES, "max_tokens": 120, "seed": at, "response_format": response_format(schema)}
            | {"stream": at % 2 == 0, "temperature": (at % 3) / 2}
            for at, schema in enumerate(asked)
        ]
        outputs = await asyncio.gather(*(text_of(client, body) for body in bodies))
        finished = [(text, schema) for (text, reason), schema in zip(outputs, asked, strict=True) if reason == "stop"]
        assert len(finished) > len(asked) / 2  # it goes on for ever where it may, being small
        for text, schema in finished:
            assert_valid(text, schema)

    with_model(smollm2_path, work, dtype="auto", threads=None, max_model_len=1024, kv_memory=256 << 20)
