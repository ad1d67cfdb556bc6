"""POST /v1/responses and what is kept of it: in OpenAI's shapes, over an engine that says what it is told to."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from penstock.core.errors import EngineDeadError
from penstock.server.responses_api.store import KEPT_SECONDS
from support.asking import ask, error_of
from support.eventually import eventually
from support.fake_engine import FakeEngine, write_model
from support.listening import listening
from support.named_events import named_events
from support.tool_templates import ALWAYS_THINKING, FAMILIES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from openai.types.responses import Response

PATH = "/v1/responses"
SCHEMA = {"type": "json_schema", "name": "a", "strict": True}
SAID = "user\nhello\nassistant\n"
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>'


@pytest.fixture(scope="session")
def tool_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("hermes"), FAMILIES["hermes"].template)


@pytest.fixture(scope="session")
def thinking_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("thinking"), ALWAYS_THINKING)


@pytest.fixture
def engine(echo_model: Path) -> FakeEngine:
    return FakeEngine(echo_model)


def create(engine: FakeEngine, tmp_path: Path, **fields: Any) -> dict[str, Any]:
    response = ask(engine, "POST", PATH, {"input": "hello", "temperature": 0, **fields}, data_dir=tmp_path)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    assert response.headers["x-request-id"] == body["id"]
    return body


def refuse(engine: FakeEngine, tmp_path: Path, **fields: Any) -> dict[str, Any]:
    response = ask(engine, "POST", PATH, {"input": "hello", **fields}, data_dir=tmp_path)
    assert response.status_code == 400, response.text
    assert not engine.added
    return error_of(response)


def prompt_of(engine: FakeEngine) -> str:
    return engine.tokenizer.decode(engine.added[-1].prompt_token_ids, skip_special_tokens=True)


def with_client(engine: FakeEngine, tmp_path: Path, work: Callable[[AsyncOpenAI], Awaitable[Any]]) -> Any:
    """Run `work(client)` against the engine served on a socket."""

    async def run() -> Any:
        async with (
            listening(engine, data_dir=tmp_path) as url,
            AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", timeout=20, max_retries=0) as client,
        ):
            return await asyncio.wait_for(work(client), 30)

    return asyncio.run(run())


async def ended(client: AsyncOpenAI, name: str) -> Response:
    """A background response, polled until its status is final."""
    for _ in range(5000):
        response = await client.responses.retrieve(name)
        if response.status not in ("queued", "in_progress"):
            return response
    raise AssertionError(f"{name} does not end")


@pytest.mark.proves(
    responses="model input instructions metadata temperature store",
    ResponseObject="""id object created_at completed_at status background error incomplete_details instructions
        max_output_tokens metadata model output parallel_tool_calls previous_response_id reasoning service_tier store
        temperature text tool_choice tools top_logprobs top_p truncation usage""",
    OutputMessage="id status role content",
    OutputText="text annotations logprobs",
    ResponseUsage="input_tokens input_tokens_details output_tokens output_tokens_details total_tokens",
    InputTokensDetails="cached_tokens",
    OutputTokensDetails="reasoning_tokens",
)
def test_an_answer_has_openais_shape(engine: FakeEngine, tmp_path: Path) -> None:
    engine.cached_tokens = 3
    said = "system\nBe kind\nuser\nhello\nassistant\n"
    answer = create(engine, tmp_path, model="Echo-1B", instructions="Be kind", metadata={"a": "b"}, store=False)
    [item] = answer.pop("output")
    assert item.pop("id").startswith("msg_")
    part = {"type": "output_text", "text": said, "annotations": [], "logprobs": []}
    assert item == {"type": "message", "status": "completed", "role": "assistant", "content": [part]}
    tokens = len(engine.added[0].prompt_token_ids)
    assert answer.pop("id").startswith("resp_")
    assert answer.pop("completed_at") >= answer.pop("created_at")
    assert answer == {
        "object": "response",
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": "Be kind",
        "max_output_tokens": None,
        "metadata": {"a": "b"},
        "model": "Echo-1B",
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None},
        "service_tier": "default",
        "store": False,
        "temperature": 0.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": tokens,
            "input_tokens_details": {"cached_tokens": 3},
            "output_tokens": len(said) + 1,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": tokens + len(said) + 1,
        },
    }
    assert not list(tmp_path.iterdir())  # what isn't to be stored touches no disk


@pytest.mark.proves(
    responses="""temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty seed stop priority
        cache_salt max_output_tokens chat_template_kwargs reasoning logit_bias stop_token_ids ignore_eos
        include_stop_str_in_output skip_special_tokens structured_outputs""",
    ReasoningConfig="effort",
)
def test_what_is_asked_of_sampling_reaches_the_engine(engine: FakeEngine, tmp_path: Path) -> None:
    create(
        engine,
        tmp_path,
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        min_p=0.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        repetition_penalty=1.5,
        seed=11,
        stop=["zzz"],
        priority=5,
        cache_salt="mine",
        max_output_tokens=9,
        chat_template_kwargs={"mood": "grim"},
        reasoning={"effort": "low"},
        logit_bias={"7": 2.5},
        stop_token_ids=[300],
        include_stop_str_in_output=True,
        ignore_eos=True,
        skip_special_tokens=False,
        structured_outputs={"regex": "[a-z]+"},
    )
    [asked] = engine.added
    params = asked.params
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.5, 0.9, 7, 0.1)
    assert (params.presence_penalty, params.frequency_penalty, params.repetition_penalty) == (0.2, 0.3, 1.5)
    assert (params.seed, params.stop, params.max_tokens) == (11, ("zzz",), 9)
    assert (params.logit_bias, params.stop_token_ids) == ({7: 2.5}, (300,))
    assert (params.include_stop_str_in_output, params.ignore_eos, params.skip_special_tokens) == (True, True, False)
    assert "[a-z]+" in (params.grammar or "")
    assert (asked.priority, asked.cache_salt) == (5, "mine")


@pytest.mark.proves(IncompleteDetails="reason")
def test_an_answer_that_was_cut_is_incomplete(engine: FakeEngine, tmp_path: Path) -> None:
    answer = create(engine, tmp_path, max_output_tokens=4)
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (answer["output"][0]["status"], answer["completed_at"]) == ("incomplete", None)
    assert answer["output"][0]["content"][0]["text"] == "user"


@pytest.mark.proves(
    InputItem="type id status role content call_id name arguments output summary encrypted_content",
    InputPart="type text refusal",
)
def test_items_become_one_conversation(tool_model: Path, tmp_path: Path) -> None:
    engine = FakeEngine(tool_model, context=4096, says="Fine.")
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "hm"}],
            "encrypted_content": "x",
        },
        {
            "type": "function_call",
            "call_id": "c1",
            "name": "weather",
            "arguments": '{"city": "Bonn"}',
            "status": "completed",
        },
        {"type": "function_call_output", "call_id": "c1", "output": "Rain"},
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No more."}]},
        {"role": "user", "content": "Thanks"},
    ]
    create(engine, tmp_path, input=items, tools=[WEATHER])
    text = prompt_of(engine)
    order = ["Weather?", '{"name": "weather", "arguments": {"city": "Bonn"}}', "Rain", "No more.", "Thanks"]
    places = [text.rindex(part) for part in order]
    assert places == sorted(places)


@pytest.mark.proves(
    responses="tools tool_choice parallel_tool_calls",
    ResponseTool="type name description parameters strict",
    ResponseToolChoice="type name mode tools",
    OutputCall="id call_id status name arguments",
)
@pytest.mark.parametrize(
    "choice",
    [
        None,
        "required",
        {"type": "function", "name": "weather"},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]},
    ],
)
def test_a_call_is_an_item_of_its_own(tool_model: Path, tmp_path: Path, choice: Any) -> None:
    engine = FakeEngine(tool_model, context=4096, says=CALL)
    answer = create(engine, tmp_path, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False)
    [item] = answer["output"]
    assert (item["type"], item["status"], item["name"]) == ("function_call", "completed", "weather")
    assert json.loads(item["arguments"]) == {"city": "Bonn"}
    assert item["id"].startswith("fc_")
    assert item["call_id"]
    assert "of a city" in prompt_of(engine)
    assert answer["tools"] == [WEATHER]


@pytest.mark.proves(response_events="response.reasoning_text.delta response.reasoning_text.done response.incomplete")
def test_given_a_stream_that_thinks_and_is_cut_then_its_events_say_so(thinking_model: Path, tmp_path: Path) -> None:
    engine = FakeEngine(thinking_model, says="Let me see.</think>\n\nFour.")
    body = {"input": "hello", "temperature": 0, "stream": True, "max_output_tokens": 25}
    found = named_events(ask(engine, "POST", PATH, body, data_dir=tmp_path).text)
    thought = [event["delta"] for event in found if event["type"] == "response.reasoning_text.delta"]
    [done] = [event["text"] for event in found if event["type"] == "response.reasoning_text.done"]
    assert ("".join(thought), done) == ("Let me see.", "Let me see.")
    assert found[-1]["type"] == "response.incomplete"
    assert found[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


@pytest.mark.proves(OutputReasoning="id status summary content", ReasoningText="text")
def test_thinking_is_an_item_before_the_message(thinking_model: Path, tmp_path: Path) -> None:
    engine = FakeEngine(thinking_model, says="Let me see.</think>\n\nFour.")
    answer = create(engine, tmp_path)
    thought, message = answer["output"]
    assert thought.pop("id").startswith("rs_")
    assert thought == {
        "type": "reasoning",
        "status": "completed",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Let me see."}],
    }
    assert message["content"][0]["text"] == "Four."
    assert answer["usage"]["output_tokens_details"]["reasoning_tokens"] > 0


@pytest.mark.proves(
    responses="include top_logprobs",
    OutputLogprob="token bytes logprob top_logprobs",
    OutputTopLogprob="token bytes logprob",
)
def test_log_probabilities_come_with_the_text(engine: FakeEngine, tmp_path: Path) -> None:
    answer = create(engine, tmp_path, include=["message.output_text.logprobs"], top_logprobs=2, max_output_tokens=3)
    first, *_ = entries = answer["output"][0]["content"][0]["logprobs"]
    assert [entry["token"] for entry in entries] == ["u", "s", "e"]
    assert set(first) == {"token", "bytes", "logprob", "top_logprobs"}
    assert (first["bytes"], [set(top) for top in first["top_logprobs"]]) == (
        [ord("u")],
        [{"token", "bytes", "logprob"}] * 2,
    )


@pytest.mark.proves(
    responses="stream",
    response_events="""response.created response.in_progress response.output_item.added response.content_part.added
        response.output_text.delta response.output_text.done response.content_part.done response.output_item.done
        response.completed""",
    ResponseEvent="type sequence_number response output_index content_index item_id item part delta text logprobs",
)
def test_a_stream_has_openais_events_in_their_order(engine: FakeEngine, tmp_path: Path) -> None:
    response = ask(engine, "POST", PATH, {"input": "hello", "temperature": 0, "stream": True}, data_dir=tmp_path)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    found = named_events(response.text)
    kinds = [event["type"].removeprefix("response.") for event in found]
    deltas = [event for event in found if event["type"] == "response.output_text.delta"]
    assert kinds == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *(["output_text.delta"] * len(deltas)),
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert [event["sequence_number"] for event in found] == [*range(len(found))]
    assert "".join(event["delta"] for event in deltas) == SAID
    [item] = found[-1]["response"]["output"]
    assert {(event["item_id"], event["output_index"], event["content_index"]) for event in deltas} == {
        (item["id"], 0, 0)
    }
    assert (found[-4]["text"], found[-3]["part"]["text"], found[-2]["item"]) == (SAID, SAID, item)
    assert found[0]["response"] | {"id": ""} == found[1]["response"] | {"id": ""}
    assert (found[0]["response"]["status"], found[0]["response"]["output"]) == ("in_progress", [])


@pytest.mark.proves(
    ResponseEvent="name arguments",
    response_events="response.function_call_arguments.delta response.function_call_arguments.done",
)
def test_a_streamed_call_gives_its_arguments_bit_by_bit(tool_model: Path, tmp_path: Path) -> None:
    engine = FakeEngine(tool_model, context=4096, says=CALL)
    body = {"input": "hello", "tools": [WEATHER], "stream": True}
    found = named_events(ask(engine, "POST", PATH, body, data_dir=tmp_path).text)
    kind = "response.function_call_arguments"
    deltas = [event["delta"] for event in found if event["type"] == f"{kind}.delta"]
    [done] = [event for event in found if event["type"] == f"{kind}.done"]
    assert len(deltas) > 1
    assert (done["name"], done["arguments"]) == ("weather", "".join(deltas))
    assert found[-1]["response"]["output"][0]["arguments"] == "".join(deltas)


@pytest.mark.proves(ResponseError="code message", response_events="response.failed")
def test_a_failure_in_the_midst_of_a_stream_is_its_last_event(engine: FakeEngine, tmp_path: Path) -> None:
    engine.failure = EngineDeadError("It broke.")
    response = ask(engine, "POST", PATH, {"input": "hello", "stream": True}, data_dir=tmp_path)
    last = named_events(response.text)[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"] == {"code": "server_error", "message": "It broke."}


def test_openais_client_reads_a_stream_and_goes_on_from_it(engine: FakeEngine, tmp_path: Path) -> None:
    async def work(client: AsyncOpenAI) -> None:
        async with client.responses.stream(model="Echo-1B", input="hello", temperature=0) as stream:
            text = "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])
            first = await stream.get_final_response()
        assert first.output_text == text == SAID
        second = await client.responses.create(
            model="Echo-1B", input="more", temperature=0, previous_response_id=first.id, instructions="Now"
        )
        assert second.output_text == f"system\nNow\nuser\nhello\nassistant\n{SAID}\nuser\nmore\nassistant\n"

    with_client(engine, tmp_path, work)


def test_openais_client_gives_calls_and_structured_answers(tool_model: Path, tmp_path: Path) -> None:
    async def work(client: AsyncOpenAI) -> None:
        first = await client.responses.create(model="Echo-1B", input="Weather?", tools=[WEATHER])
        [call] = first.output
        assert call.type == "function_call"
        output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain in Bonn"}
        engine.says = "It rains."
        second = await client.responses.create(
            model="Echo-1B", input=[output], tools=[WEATHER], previous_response_id=first.id
        )
        assert second.output_text == "It rains."

    engine = FakeEngine(tool_model, context=4096, says=CALL)
    with_client(engine, tmp_path, work)
    text = prompt_of(engine)
    assert text.index("Weather?") < text.index('"city": "Bonn"}}') < text.index("Rain in Bonn")


@pytest.mark.proves(
    responses="background previous_response_id",
    response="response_id",
    response_delete="response_id",
    ResponseDeleted="id object deleted",
)
def test_a_background_response_is_polled_gone_on_from_and_deleted(engine: FakeEngine, tmp_path: Path) -> None:
    async def work(client: AsyncOpenAI) -> None:
        begun = await client.responses.create(model="Echo-1B", input="hello", temperature=0, background=True)
        assert (begun.status, begun.output, begun.background) == ("queued", [], True)

        made = await ended(client, begun.id)
        assert (made.status, made.output_text, made.usage is not None) == ("completed", SAID, True)
        after = await client.responses.create(model="Echo-1B", input="b", temperature=0, previous_response_id=begun.id)
        assert after.output_text.startswith("user\nhello\nassistant\n")
        await client.responses.delete(begun.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(begun.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.delete(begun.id)
        with pytest.raises(openai.BadRequestError, match="not kept"):
            await client.responses.create(model="Echo-1B", input="c", previous_response_id=after.id)

    with_client(engine, tmp_path, work)


@pytest.mark.proves(response_cancel="response_id")
def test_cancelling_a_background_response_aborts_it_in_the_engine(echo_model: Path, tmp_path: Path) -> None:
    engine = FakeEngine(echo_model, held=True)

    async def work(client: AsyncOpenAI) -> None:
        begun = await client.responses.create(model="Echo-1B", input="hello", background=True)
        await eventually(lambda: engine.running == 1, "it runs")
        cancelled = await client.responses.cancel(begun.id)
        assert cancelled.status == "cancelled"
        await eventually(lambda: len(engine.aborted) == 1, "it is aborted")
        assert (await client.responses.cancel(begun.id)).status == "cancelled"
        assert (await client.responses.retrieve(begun.id)).status == "cancelled"
        engine.release(1000)
        whole = await client.responses.create(model="Echo-1B", input="hello")
        with pytest.raises(openai.BadRequestError, match="background"):
            await client.responses.cancel(whole.id)

    with_client(engine, tmp_path, work)


def test_a_background_response_waits_while_the_queue_is_full_and_outlives_crashes(
    echo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.server.responses_api.work.PATIENCE_SECONDS", 0.01)
    engine = FakeEngine(echo_model, held=True, max_num_seqs=1, max_waiting=0)

    async def work(client: AsyncOpenAI) -> None:
        first = await client.responses.create(model="Echo-1B", input="one", background=True)
        await eventually(lambda: engine.running == 1, "it runs")
        second = await client.responses.create(model="Echo-1B", input="two", background=True)
        engine.die()
        engine.state = "ready"
        engine.release(1000)
        for begun in (first, second):
            assert (await ended(client, begun.id)).status == "completed"

    with_client(engine, tmp_path, work)


def test_given_as_many_background_responses_as_may_be_then_another_is_refused(
    echo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.server.responses_api.work.MOST_UNFINISHED", 1)
    engine = FakeEngine(echo_model, held=True)

    async def work(client: AsyncOpenAI) -> None:
        first = await client.responses.create(model="Echo-1B", input="one", background=True)
        with pytest.raises(openai.RateLimitError, match="in the background"):
            await client.responses.create(model="Echo-1B", input="two", background=True)
        engine.release(1000)
        assert (await ended(client, first.id)).status == "completed"
        await client.responses.create(model="Echo-1B", input="three", background=True)

    with_client(engine, tmp_path, work)


def test_given_a_background_response_that_grew_then_its_bytes_are_those_of_the_whole(
    engine: FakeEngine, tmp_path: Path
) -> None:
    async def work(client: AsyncOpenAI) -> None:
        await ended(client, (await client.responses.create(model="Echo-1B", input="hello", background=True)).id)

    with_client(engine, tmp_path, work)
    with closing(sqlite3.connect(tmp_path / "penstock.sqlite3")) as database:
        row = database.execute(
            "SELECT bytes, LENGTH(request) + LENGTH(input) + LENGTH(response) FROM responses"
        ).fetchone()
    assert row[0] == row[1]


def test_a_background_response_that_the_server_left_unfinished_is_made_by_the_next_one(
    echo_model: Path, tmp_path: Path
) -> None:
    async def begin(client: AsyncOpenAI) -> str:
        return (await client.responses.create(model="Echo-1B", input="hello", background=True, temperature=0)).id

    async def end(client: AsyncOpenAI) -> None:
        assert (await ended(client, name)).output_text == SAID

    name = with_client(FakeEngine(echo_model, held=True), tmp_path, begin)
    with_client(FakeEngine(echo_model), tmp_path, end)


@pytest.mark.proves(
    input_items="response_id limit order after", ItemList="object data first_id last_id has_more", responses="input"
)
def test_input_items_are_listed_in_pages(engine: FakeEngine, tmp_path: Path) -> None:
    items: Any = [{"role": "user", "content": str(number)} for number in range(5)]

    async def work(client: AsyncOpenAI) -> None:
        answer = await client.responses.create(model="Echo-1B", input=items)
        newest = [item.content async for item in client.responses.input_items.list(answer.id, limit=2)]
        assert newest == ["4", "3", "2", "1", "0"]
        page = await client.responses.input_items.list(answer.id, limit=2, order="asc")
        assert ([item.content for item in page.data], page.has_more) == (["0", "1"], True)
        assert (page.object, page.first_id, page.last_id) == ("list", page.data[0].id, page.data[1].id)

    with_client(engine, tmp_path, work)


@pytest.mark.parametrize("query", ["limit=0", "limit=x", f"limit={'9' * 5000}", "order=up", "after=nothing"])
def test_a_page_that_cannot_be_is_refused(engine: FakeEngine, tmp_path: Path, query: str) -> None:
    name = create(engine, tmp_path)["id"]
    error = error_of(ask(engine, "GET", f"{PATH}/{name}/input_items?{query}", data_dir=tmp_path))
    assert error["param"] == query.partition("=")[0]


@pytest.mark.proves(responses="truncation")
def test_the_oldest_turns_are_left_out_where_that_is_asked_for(engine: FakeEngine, tmp_path: Path) -> None:
    turns: list[dict[str, str]] = []
    for number in range(30):
        turns += [{"role": "user", "content": f"<{number}>" + "x" * 20}, {"role": "assistant", "content": "y" * 20}]
    turns.append({"role": "user", "content": "last"})
    create(engine, tmp_path, input=turns, instructions="Stay", truncation="auto", max_output_tokens=50)
    kept = prompt_of(engine)
    assert kept.startswith("system\nStay\nuser\n<")
    assert "last" in kept
    assert "<0>" not in kept
    assert len(engine.added[0].prompt_token_ids) + 50 <= engine.info.max_model_len
    error = error_of(ask(engine, "POST", PATH, {"input": turns}, data_dir=tmp_path))
    assert (error["param"], error["code"]) == ("input", "context_length_exceeded")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [{"content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{}]}}, "tool_choice.tools[0]"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"background": True, "stream": True}, "stream"),
        ({"background": True, "store": False}, "store"),
        ({"previous_response_id": "resp_none"}, "previous_response_id"),
        ({"previous_response_id": "resp_none", "background": True}, "previous_response_id"),
        ({"max_output_tokens": 100_000}, "max_output_tokens"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"documents": ["a"]}, "documents"),
        ({"input": "x" * 100_000}, "input"),
        ({"text": {"format": {**SCHEMA, "schema": {"uniqueItems": True}}}}, "text.format.schema.uniqueItems"),
    ],
)
@pytest.mark.parametrize("background", [False, True])
def test_what_cannot_be_is_refused_in_the_clients_own_words(
    engine: FakeEngine, tmp_path: Path, fields: dict[str, Any], param: str, background: bool
) -> None:
    error = refuse(engine, tmp_path, **{"background": background, **fields})
    assert error["param"] == param
    assert (
        param.split("[", maxsplit=1)[0].split(".", maxsplit=1)[0] in error["message"]
        or "response" in error["message"].lower()
        or "prompt is" in error["message"]
    )


def test_a_stored_response_cannot_be_streamed(engine: FakeEngine, tmp_path: Path) -> None:
    name = create(engine, tmp_path)["id"]
    assert error_of(ask(engine, "GET", f"{PATH}/{name}?stream=true", data_dir=tmp_path))["param"] == "stream"


def test_old_responses_and_those_beyond_the_limit_are_forgotten(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.server.responses_api.store._SAVES_BETWEEN_EVICTIONS", 1)
    now = [1_000_000]
    monkeypatch.setattr("time.time", lambda: now[0])

    async def work(client: httpx.AsyncClient) -> None:
        async def made(text: str) -> str:
            answer = await client.post(PATH, json={"input": text})
            name: str = answer.json()["id"]
            return name

        async def kept(name: str) -> bool:
            return (await client.get(f"{PATH}/{name}")).status_code == 200

        old = await made("old")
        now[0] += KEPT_SECONDS + 1
        first = await made("first")
        assert (await kept(old), await kept(first)) == (False, True)
        monkeypatch.setattr("penstock.server.responses_api.store.KEPT_BYTES", 1)
        now[0] += 1
        second = await made("second")
        assert (await kept(first), await kept(second)) == (False, True)

    async def run() -> None:
        async with listening(engine, data_dir=tmp_path) as url, httpx.AsyncClient(base_url=url) as client:
            await work(client)

    asyncio.run(run())


@pytest.mark.proves(responses="text", TextConfig="format", TextFormat="type name schema description strict")
@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_object"},
        {
            "type": "json_schema",
            "name": "answer",
            "description": "d",
            "strict": True,
            "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
        },
    ],
)
def test_a_structured_answer_is_held_to_its_form(engine: FakeEngine, tmp_path: Path, form: dict[str, Any]) -> None:
    answer = create(engine, tmp_path, text={"format": form})
    assert answer["text"] == {"format": form}
    assert "%json" in (engine.added[0].params.grammar or "")
    assert create(engine, tmp_path, text={"format": {"type": "text"}})["text"] == {"format": {"type": "text"}}
    assert engine.added[1].params.grammar is None


def test_a_schema_that_cannot_be_is_named_by_its_own_field(engine: FakeEngine, tmp_path: Path) -> None:
    form = {"type": "json_schema", "name": "a", "schema": {"type": "array", "uniqueItems": True}}
    assert refuse(engine, tmp_path, text={"format": form})["param"].startswith("text.format")
