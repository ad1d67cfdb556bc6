"""Tiny random models that call tools: whatever they say, what is called is valid, in every family's format."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest
from openai import AsyncOpenAI, BadRequestError

from penstock.engine.client import EngineClient
from penstock.engine.config import EngineConfig
from support.listening import listening
from support.tiny_chat import write_tiny_chat
from support.tool_templates import ALWAYS_THINKING, FAMILIES

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

CONTEXT = 4096
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Köln", "東京", 'a "quoted" one']},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "units": {"anyOf": [{"const": "metric"}, {"type": "null"}]},
    },
    "required": ["city", "days", "units"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "forecast", "description": "Weather.", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now", "description": "The time."}},
]
BRIEFLY = {"thinking_token_budget": 20}  # a random model that thinks hardly ever stops
MESSAGES: Any = [{"role": "user", "content": "Weather in Köln?"}]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    templates = {name: (case.template, case.control) for name, case in FAMILIES.items()}
    templates["thinking"] = (ALWAYS_THINKING, ())
    for name, (template, control) in templates.items():
        directory = tmp_path_factory.mktemp(name)
        made[name] = write_tiny_chat(
            directory, template=template, control=control, max_position_embeddings=CONTEXT, num_hidden_layers=1
        )
    return made


@asynccontextmanager
async def serving(path: Path) -> AsyncGenerator[AsyncOpenAI]:
    engine = EngineClient(EngineConfig(model_path=str(path), dtype="float32", kv_memory=1 << 24, threads=1))
    await engine.start()
    async with listening(engine) as url, AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=60) as client:
        yield client


def with_model(path: Path, work: Callable[[AsyncOpenAI], Awaitable[None]]) -> None:
    async def run() -> None:
        async with serving(path) as client:
            await asyncio.wait_for(work(client), 90)

    asyncio.run(run())


def assert_valid(calls: list[Any]) -> None:
    for call in calls:
        arguments = json.loads(call.function.arguments)
        schema = SCHEMA if call.function.name == "forecast" else {"type": "object", "maxProperties": 0}
        assert jsonschema_rs.is_valid(schema, arguments), call


@pytest.mark.parametrize("name", FAMILIES)
def test_what_must_be_called_is_called_with_valid_arguments(models: dict[str, Path], name: str) -> None:
    async def work(client: AsyncOpenAI) -> None:
        async def ask(seed: int, **fields: Any) -> Any:
            return await client.chat.completions.create(
                model=model, messages=MESSAGES, tools=TOOLS, seed=seed, max_tokens=400, extra_body=BRIEFLY, **fields
            )

        model = (await client.models.list()).data[0].id
        named: Any = {"type": "function", "function": {"name": "forecast"}}
        answers = await asyncio.gather(
            *(ask(seed, tool_choice="required", n=2) for seed in range(4)),
            *(ask(seed, tool_choice=named) for seed in range(4)),
            *(ask(seed, tool_choice="required", parallel_tool_calls=False) for seed in range(3)),
        )
        finished = [choice for answer in answers for choice in answer.choices if choice.finish_reason != "length"]
        assert len(finished) >= 8
        for choice in finished:
            assert choice.finish_reason == "tool_calls"
            assert (choice.message.content, bool(choice.message.tool_calls)) == (None, True)
            assert_valid(choice.message.tool_calls)
        of_one = [
            choice.message.tool_calls for answer in answers[4:] for choice in answer.choices if choice in finished
        ]
        assert [len(calls) for calls in of_one] == [1] * len(of_one)
        named_calls = [call for answer in answers[4:8] for call in answer.choices[0].message.tool_calls or []]
        assert {call.function.name for call in named_calls} == {"forecast"}

    with_model(models[name], work)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_streamed_call_is_rebuilt_by_the_clients_helper(models: dict[str, Path], name: str) -> None:
    async def work(client: AsyncOpenAI) -> None:
        model = (await client.models.list()).data[0].id
        for seed in range(2):
            async with client.chat.completions.stream(
                model=model,
                messages=MESSAGES,
                tools=TOOLS,
                tool_choice="required",
                seed=seed,
                max_tokens=1500,
                extra_body=BRIEFLY,
            ) as stream:
                done = [event async for event in stream if event.type == "tool_calls.function.arguments.done"]
                whole = await stream.get_final_completion()
            calls = whole.choices[0].message.tool_calls or []
            assert_valid(calls)
            assert [event.name for event in done] == [call.function.name for call in calls]
            assert whole.choices[0].finish_reason == "tool_calls"

    with_model(models[name], work)


def test_a_conversation_goes_on_with_the_results(models: dict[str, Path]) -> None:
    async def work(client: AsyncOpenAI) -> None:
        model = (await client.models.list()).data[0].id
        asked: dict[str, Any] = {"model": model, "tools": TOOLS, "seed": 1, "max_tokens": 300}
        first = await client.chat.completions.create(messages=MESSAGES, tool_choice="required", **asked)
        message = first.choices[0].message
        results: Any = [{"role": "tool", "tool_call_id": call.id, "content": "22"} for call in message.tool_calls or []]
        turns: Any = [*MESSAGES, message.model_dump(exclude_none=True), *results]
        second = await client.chat.completions.create(messages=turns, **asked)
        assert second.usage is not None
        assert first.usage is not None
        assert second.usage.prompt_tokens > first.usage.prompt_tokens

    with_model(models["mistral-named"], work)


def test_a_schema_that_no_grammar_can_follow_is_refused_and_harms_nobody(models: dict[str, Path]) -> None:
    async def work(client: AsyncOpenAI) -> None:
        model = (await client.models.list()).data[0].id
        parameters = {"type": "object", "properties": {"a": {"$ref": "#/$defs/gone"}}}
        lost: Any = [{"type": "function", "function": {"name": "lost", "parameters": parameters}}]
        asked: dict[str, Any] = {"model": model, "messages": MESSAGES, "max_tokens": 20}
        for stream in (False, True):
            with pytest.raises(BadRequestError) as caught:
                await client.chat.completions.create(tools=lost, stream=stream, **asked)
            assert caught.value.param == "tools"
            assert caught.value.code == "invalid_grammar"
        assert (await client.chat.completions.create(**asked)).choices

    with_model(models["generic"], work)


def test_thinking_ends_when_its_budget_does_and_what_follows_fits_the_schema(models: dict[str, Path]) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "forecast", "schema": SCHEMA}}

    async def work(client: AsyncOpenAI) -> None:
        model = (await client.models.list()).data[0].id

        async def ask(budget: int, seed: int, **fields: Any) -> Any:
            return await client.chat.completions.create(
                model=model, messages=MESSAGES, seed=seed, extra_body={"thinking_token_budget": budget}, **fields
            )

        budgets = [0, 1, 7, 40]
        answers = await asyncio.gather(
            *(ask(budget, budget, max_tokens=300, response_format=form) for budget in budgets),
            *(ask(budget, budget, max_tokens=300, tools=TOOLS, tool_choice="required") for budget in budgets),
            *(ask(budget, budget, max_tokens=60 + budget) for budget in budgets),
        )
        for answer, budget in zip(answers, budgets * 3, strict=True):
            details = answer.usage.completion_tokens_details
            assert details.reasoning_tokens <= budget + 3
        for answer in answers[:4]:
            if answer.choices[0].finish_reason == "stop":
                assert jsonschema_rs.is_valid(SCHEMA, json.loads(answer.choices[0].message.content))
        assert {answer.choices[0].finish_reason for answer in answers[:8]} >= {"stop", "tool_calls"}
        for answer in answers[4:8]:
            if answer.choices[0].finish_reason == "tool_calls":
                assert_valid(answer.choices[0].message.tool_calls)
        assert any(answer.choices[0].message.content for answer in answers[8:])

    with_model(models["thinking"], work)
