"""The `openai` Python client, unmodified, against the server: what it parses, raises, retries and cancels."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from support.eventually import eventually
from support.fake_engine import FakeEngine
from support.listening import listening

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

MESSAGES: Any = [{"role": "user", "content": "hello"}]
SAID = "user\nhello\nassistant\n"


@pytest.fixture
def engine(echo_model: Path) -> FakeEngine:
    return FakeEngine(echo_model)


def with_client(engine: FakeEngine, work: Callable[[AsyncOpenAI], Awaitable[Any]], **settings: Any) -> Any:
    """Run `work(client)` against the engine served on a socket."""

    async def run() -> Any:
        async with listening(engine, **settings) as url:
            key = settings.get("api_keys", ["unused"])[0]
            async with AsyncOpenAI(base_url=f"{url}/v1", api_key=key, timeout=20) as client:
                return await asyncio.wait_for(work(client), 30)

    return asyncio.run(run())


def test_chat(engine: FakeEngine) -> None:
    async def work(client: AsyncOpenAI) -> None:
        answer = await client.chat.completions.create(
            model="Echo-1B", messages=MESSAGES, temperature=0, seed=3, user="me", max_completion_tokens=100
        )
        [choice] = answer.choices
        assert choice.message.content == SAID
        assert (choice.message.role, choice.message.refusal, choice.message.tool_calls) == ("assistant", None, None)
        assert choice.finish_reason == "stop"
        assert answer.usage is not None
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.cached_tokens == 0
        assert answer._request_id == answer.id

    with_client(engine, work)


def test_chat_stream(engine: FakeEngine) -> None:
    async def work(client: AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(
            model="Echo-1B", messages=MESSAGES, temperature=0, stream=True, stream_options={"include_usage": True}
        )
        text, reasons, usage = "", [], None
        async for chunk in stream:
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reasons.append(choice.finish_reason)
            usage = chunk.usage or usage
        assert (text, reasons[-1]) == (SAID, "stop")
        assert usage is not None
        assert usage.completion_tokens == len(SAID) + 1

    with_client(engine, work)


def test_chat_stream_helper_rebuilds_the_whole(engine: FakeEngine) -> None:
    async def work(client: AsyncOpenAI) -> None:
        async with client.chat.completions.stream(model="Echo-1B", messages=MESSAGES, temperature=0, n=2) as stream:
            async for _ in stream:
                pass
            whole = await stream.get_final_completion()
        assert [choice.message.content for choice in whole.choices] == [SAID, SAID]
        assert [choice.finish_reason for choice in whole.choices] == ["stop", "stop"]

    with_client(engine, work)


def test_several_choices_and_log_probabilities(engine: FakeEngine) -> None:
    async def work(client: AsyncOpenAI) -> None:
        answer = await client.chat.completions.create(
            model="Echo-1B", messages=MESSAGES, temperature=0, n=3, max_tokens=2, logprobs=True, top_logprobs=2
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        for choice in answer.choices:
            assert choice.finish_reason == "length"
            assert choice.logprobs is not None
            assert choice.logprobs.content is not None
            assert [entry.token for entry in choice.logprobs.content] == ["u", "s"]
            assert [top.token for top in choice.logprobs.content[0].top_logprobs] == ["u", "v"]

    with_client(engine, work)


def test_completions_whole_and_streamed(engine: FakeEngine) -> None:
    async def work(client: AsyncOpenAI) -> None:
        answer = await client.completions.create(
            model="Echo-1B", prompt=["ab", "cd"], temperature=0, echo=True, logprobs=1, max_tokens=2
        )
        assert [choice.text for choice in answer.choices] == ["abab", "cdcd"]
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert (logprobs.tokens, logprobs.text_offset) == (["a", "b", "a", "b"], [0, 1, 2, 3])
        stream = await client.completions.create(model="Echo-1B", prompt="xyz", temperature=0, stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == "xyz"

    with_client(engine, work)


def test_models(engine: FakeEngine) -> None:
    async def work(client: AsyncOpenAI) -> None:
        listed = await client.models.list()
        assert [model.id for model in listed.data] == ["Echo-1B", "gpt-3.5-turbo"]
        assert (await client.models.retrieve("gpt-3.5-turbo")).object == "model"
        with pytest.raises(openai.NotFoundError) as caught:
            await client.models.retrieve("nope")
        assert caught.value.code == "model_not_found"

    with_client(engine, work, aliases=["gpt-3.5-turbo"])


def test_extra_fields_go_through_extra_body(engine: FakeEngine) -> None:
    async def work(client: AsyncOpenAI) -> None:
        raw = await client.chat.completions.with_raw_response.create(
            model="Echo-1B", messages=MESSAGES, temperature=0, extra_body={"top_k": 5, "min_tokens": 2, "mystery": 1}
        )
        assert raw.headers["x-penstock-ignored-fields"] == "mystery"
        assert engine.added[0].params.top_k == 5

    with_client(engine, work)


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"temperature": 9}, openai.BadRequestError, "temperature"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, openai.BadRequestError, "tools[0].type"),
        ({"response_format": {"type": "json_schema"}}, openai.BadRequestError, "response_format.json_schema"),
        ({"max_tokens": 10_000}, openai.BadRequestError, "max_tokens"),
        ({"model": "gpt-5"}, openai.NotFoundError, "model"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_clients_own_and_name_the_field(
    engine: FakeEngine, fields: dict[str, Any], kind: type[openai.APIStatusError], param: str, stream: bool
) -> None:
    async def work(client: AsyncOpenAI) -> None:
        asked: dict[str, Any] = {"model": "Echo-1B", "messages": MESSAGES, **fields}
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(**asked, stream=stream)
        assert caught.value.param == param
        assert caught.value.code

    with_client(engine, work)


def test_a_wrong_key_is_an_authentication_error(engine: FakeEngine) -> None:
    async def work(client: AsyncOpenAI) -> None:
        assert (await client.models.list()).data
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="wrong").models.list()

    with_client(engine, work, api_keys=["right"])


def test_a_busy_or_restarting_server_is_tried_again(echo_model: Path) -> None:
    engine = FakeEngine(echo_model)

    async def work(client: AsyncOpenAI) -> None:
        tries = []

        async def note(request: httpx.Request) -> None:
            tries.append(request.headers["x-stainless-retry-count"])
            if len(tries) == 2:
                engine.state = "ready"

        http = httpx.AsyncClient(event_hooks={"request": [note]})
        engine.state = "restarting"
        async with client.with_options(http_client=http, max_retries=2) as retrying:
            answer = await retrying.chat.completions.create(model="Echo-1B", messages=MESSAGES, temperature=0)
        assert answer.choices[0].message.content == SAID
        assert tries == ["0", "1"]
        engine.state = "restarting"
        with pytest.raises(openai.InternalServerError) as caught:
            await client.with_options(max_retries=0).chat.completions.create(model="Echo-1B", messages=MESSAGES)
        assert caught.value.status_code == 503

    with_client(engine, work)


def test_a_full_queue_is_a_rate_limit_error(echo_model: Path) -> None:
    engine = FakeEngine(echo_model, held=True, max_num_seqs=1, max_waiting=0)

    async def work(client: AsyncOpenAI) -> None:
        running = asyncio.create_task(client.chat.completions.create(model="Echo-1B", messages=MESSAGES))
        await eventually(lambda: engine.running == 1, "the first request runs")
        with pytest.raises(openai.RateLimitError):
            await client.with_options(max_retries=0).chat.completions.create(model="Echo-1B", messages=MESSAGES)
        engine.release(100)
        assert (await running).choices[0].finish_reason == "stop"

    with_client(engine, work)


def test_a_core_that_dies_in_mid_stream_is_an_api_error(echo_model: Path) -> None:
    engine = FakeEngine(echo_model, held=True)

    async def work(client: AsyncOpenAI) -> None:
        engine.release(3)
        stream = await client.chat.completions.create(model="Echo-1B", messages=MESSAGES, stream=True)
        await anext(stream)
        engine.die()

        async def rest() -> list[Any]:
            return [chunk async for chunk in stream]

        with pytest.raises(openai.APIError, match="died"):
            await rest()

    with_client(engine, work)


def test_closing_a_stream_ends_its_work(echo_model: Path) -> None:
    engine = FakeEngine(echo_model, held=True)

    async def work(client: AsyncOpenAI) -> None:
        engine.release(3)
        stream = await client.chat.completions.create(
            model="Echo-1B", messages=MESSAGES, stream=True, extra_body={"ignore_eos": True}
        )
        async for _ in stream:
            break
        await stream.close()
        await eventually(lambda: engine.running == 0, "the sequence is gone")
        assert len(engine.aborted) == 1

    with_client(engine, work)


def test_cancelling_a_request_ends_its_work(echo_model: Path) -> None:
    engine = FakeEngine(echo_model, held=True)

    async def work(client: AsyncOpenAI) -> None:
        asking = asyncio.create_task(client.chat.completions.create(model="Echo-1B", messages=MESSAGES))
        await eventually(lambda: engine.running == 1, "the sequence runs")
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await eventually(lambda: engine.running == 0, "the sequence is gone")

    with_client(engine, work)


def test_a_timeout_of_the_client_ends_its_work(echo_model: Path) -> None:
    engine = FakeEngine(echo_model, held=True)

    async def work(client: AsyncOpenAI) -> None:
        impatient = client.with_options(timeout=0.2, max_retries=0)
        with pytest.raises(openai.APITimeoutError):
            await impatient.chat.completions.create(model="Echo-1B", messages=MESSAGES)
        await eventually(lambda: engine.running == 0, "the sequence is gone")

    with_client(engine, work)


def test_the_blocking_client_works_too(engine: FakeEngine) -> None:
    async def work(client: AsyncOpenAI) -> None:
        def blocking() -> tuple[str | None, str]:
            with OpenAI(base_url=client.base_url, api_key="unused", timeout=20) as plain:
                answer = plain.chat.completions.create(model="Echo-1B", messages=MESSAGES, temperature=0)
                stream = plain.completions.create(model="Echo-1B", prompt="abc", temperature=0, stream=True)
                return answer.choices[0].message.content, "".join(chunk.choices[0].text for chunk in stream)

        assert await asyncio.to_thread(blocking) == (SAID, "abc")

    with_client(engine, work)
