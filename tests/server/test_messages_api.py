"""POST /v1/messages in Anthropic's shapes, over an engine that says what it is told to."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import anthropic
import pytest
from anthropic import AsyncAnthropic

from penstock.core.errors import EngineDeadError
from support.asking import ask
from support.fake_engine import FakeEngine, write_model
from support.listening import listening
from support.named_events import named_events
from support.tool_templates import ALWAYS_THINKING, FAMILIES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

PATH = "/v1/messages"
HELLO: Any = [{"role": "user", "content": "hello"}]
SAID = "user\nhello\nassistant\n"
WEATHER: Any = {
    "name": "weather",
    "description": "of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
    "type": "custom",
}
CALL = 'I look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>'


@pytest.fixture(scope="session")
def tool_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("hermes"), FAMILIES["hermes"].template)


@pytest.fixture(scope="session")
def thinking_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("thinking"), ALWAYS_THINKING)


@pytest.fixture
def engine(echo_model: Path) -> FakeEngine:
    return FakeEngine(echo_model)


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "Echo-1B", "max_tokens": 100, "messages": HELLO, "temperature": 0, **fields}


def create(engine: FakeEngine, **fields: Any) -> dict[str, Any]:
    response = ask(engine, "POST", PATH, body(**fields))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert response.headers["request-id"] == response.headers["x-request-id"] == answer["id"]
    return answer


def prompt_of(engine: FakeEngine) -> str:
    return engine.tokenizer.decode(engine.added[-1].prompt_token_ids, skip_special_tokens=True)


def with_client(engine: FakeEngine, work: Callable[[AsyncAnthropic], Awaitable[Any]], **settings: Any) -> Any:
    """Run `work(client)` against the engine served on a socket."""

    async def run() -> Any:
        async with listening(engine, **settings) as url:
            key = settings.get("api_keys", ["unused"])[0]
            async with AsyncAnthropic(base_url=url, api_key=key, timeout=20, max_retries=0) as client:
                return await asyncio.wait_for(work(client), 30)

    return asyncio.run(run())


@pytest.mark.proves(
    messages="model max_tokens messages system temperature",
    AnthropicMessage="role content",
    AnthropicAnswer="id role model content stop_reason stop_sequence stop_details container usage",
    TextBlock="text citations",
    MessageUsage="""input_tokens output_tokens output_tokens_details cache_creation_input_tokens
        cache_read_input_tokens cache_creation server_tool_use service_tier inference_geo""",
)
def test_an_answer_has_anthropics_shape(engine: FakeEngine) -> None:
    engine.cached_tokens = 3
    answer = create(engine, system=[{"type": "text", "text": "Be"}, {"type": "text", "text": "kind"}])
    said = "system\nBe\nkind\nuser\nhello\nassistant\n"
    assert answer.pop("id").startswith("msg_")
    assert answer == {
        "type": "message",
        "role": "assistant",
        "model": "Echo-1B",
        "content": [{"type": "text", "text": said, "citations": None}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
        "usage": {
            "input_tokens": len(engine.added[0].prompt_token_ids) - 3,
            "output_tokens": len(said) + 1,
            "output_tokens_details": {"thinking_tokens": 0},
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 3,
            "cache_creation": None,
            "server_tool_use": None,
            "service_tier": "standard",
            "inference_geo": None,
        },
    }


@pytest.mark.proves(
    messages="temperature top_p top_k stop_sequences priority output_config cache_salt", OutputConfig="effort"
)
def test_what_is_asked_of_sampling_reaches_the_engine(engine: FakeEngine) -> None:
    create(
        engine,
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        stop_sequences=["zzz"],
        priority=4,
        cache_salt="mine",
        output_config={"effort": "low"},
    )
    [asked] = engine.added
    params = asked.params
    assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (0.5, 0.9, 7, 100)
    assert (params.stop, asked.priority, asked.cache_salt) == (("zzz",), 4, "mine")


@pytest.mark.parametrize(
    ("fields", "reason", "sequence"),
    [
        ({"stop_sequences": ["hel"]}, "stop_sequence", "hel"),
        ({"max_tokens": 3}, "max_tokens", None),
        (
            {"messages": [{"role": "user", "content": "a" * 400}], "max_tokens": 9999},
            "model_context_window_exceeded",
            None,
        ),
    ],
)
def test_the_reason_of_an_end_is_told(engine: FakeEngine, fields: dict[str, Any], reason: str, sequence: Any) -> None:
    answer = create(engine, **fields)
    assert (answer["stop_reason"], answer["stop_sequence"]) == (reason, sequence)


@pytest.mark.proves(
    messages="tools tool_choice",
    AnthropicTool="name description input_schema type strict",
    AnthropicToolChoice="type name disable_parallel_tool_use",
    ToolUseBlock="id name input",
)
@pytest.mark.parametrize(
    "choice",
    [
        {"type": "auto", "disable_parallel_tool_use": True},
        {"type": "any"},
        {"type": "tool", "name": "weather"},
    ],
)
def test_a_call_is_a_block_with_its_input(tool_model: Path, choice: dict[str, Any]) -> None:
    engine = FakeEngine(tool_model, context=4096, says=CALL if choice["type"] == "auto" else CALL[8:])
    answer = create(engine, tools=[WEATHER], tool_choice=choice)
    *_, call = answer["content"]
    assert call.pop("id")
    assert call == {"type": "tool_use", "name": "weather", "input": {"city": "Bonn"}}
    assert answer["stop_reason"] == "tool_use"
    assert "of a city" in prompt_of(engine)


def test_a_tool_that_may_not_be_called_is_not_shown(tool_model: Path) -> None:
    engine = FakeEngine(tool_model, context=4096, says="No.")
    create(engine, tools=[WEATHER], tool_choice={"type": "none"})
    assert "of a city" not in prompt_of(engine)


@pytest.mark.proves(
    Block="type text id name input tool_use_id content is_error thinking signature data", messages="messages"
)
def test_blocks_become_one_conversation(tool_model: Path) -> None:
    engine = FakeEngine(tool_model, context=4096, says="Fine.")
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Bonn"}},
                {"type": "tool_use", "id": "c2", "name": "weather", "input": {"city": "Ulm"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "Rain"}]},
                {"type": "tool_result", "tool_use_id": "c2", "content": "Closed", "is_error": True},
                {"type": "text", "text": "So?"},
            ],
        },
    ]
    create(engine, messages=turns, tools=[WEATHER])
    text = prompt_of(engine)
    order = ["Weather?", '{"city": "Bonn"}', '{"city": "Ulm"}', "Rain", "Error: Closed", "So?"]
    places = [text.rindex(part) for part in order]
    assert places == sorted(places)


def test_the_answer_goes_on_where_the_assistants_last_message_ends(engine: FakeEngine) -> None:
    create(engine, messages=[*HELLO, {"role": "assistant", "content": "Well"}])
    assert prompt_of(engine).endswith("assistant\nWell")


@pytest.mark.proves(
    messages="thinking",
    Thinking="type budget_tokens",
    ThinkingBlock="thinking signature",
    ThinkingTokens="thinking_tokens",
)
@pytest.mark.parametrize("thinking", [None, {"type": "enabled", "budget_tokens": 1024}, {"type": "adaptive"}])
def test_thinking_is_a_block_before_the_text(thinking_model: Path, thinking: Any) -> None:
    engine = FakeEngine(thinking_model, says="Let me see.</think>\n\nFour.")
    answer = create(engine, thinking=thinking)
    assert answer["content"] == [
        {"type": "thinking", "thinking": "Let me see.", "signature": ""},
        {"type": "text", "text": "Four.", "citations": None},
    ]
    assert answer["usage"]["output_tokens_details"] == {"thinking_tokens": len("Let me see.")}
    limit = engine.added[0].params.thinking
    assert (None if limit is None else limit.tokens) == (1024 if thinking and "budget_tokens" in thinking else None)


@pytest.mark.proves(messages="chat_template_kwargs", count_tokens="chat_template_kwargs")
def test_given_variables_for_the_template_then_the_switch_for_thinking_goes_with_them(tmp_path: Path) -> None:
    template = "{{ mood }}{{ enable_thinking }}{{ messages[0].content }}"
    engine = FakeEngine(write_model(tmp_path, template), says="Fine.")
    variables = {"chat_template_kwargs": {"mood": "grim"}}
    create(engine, **variables)
    assert prompt_of(engine) == "grimhello"
    create(engine, **variables, thinking={"type": "disabled"})
    assert prompt_of(engine) == "grimFalsehello"
    asked = {"model": "Echo-1B", "messages": HELLO, **variables}
    assert ask(engine, "POST", f"{PATH}/count_tokens", asked).json() == {"input_tokens": len("grimhello")}
    torn = body(chat_template_kwargs={"enable_thinking": True}, thinking={"type": "disabled"})
    response = ask(engine, "POST", PATH, torn)
    assert response.status_code == 400
    assert "'chat_template_kwargs.enable_thinking' says otherwise" in response.json()["error"]["message"]


@pytest.mark.proves(
    messages="stream",
    message_events="""message_start content_block_start content_block_delta content_block_stop message_delta
        message_stop""",
    MessageEvent="type message index content_block delta usage",
    EventDelta="type text stop_reason stop_sequence",
)
def test_a_stream_has_anthropics_events_in_their_order(engine: FakeEngine) -> None:
    found = named_events(ask(engine, "POST", PATH, body(stream=True)).text)
    deltas = [event for event in found if event["type"] == "content_block_delta"]
    assert [event["type"] for event in found] == [
        *("message_start", "content_block_start"),
        *(["content_block_delta"] * len(deltas)),
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    assert "".join(event["delta"]["text"] for event in deltas) == SAID
    assert {(event["index"], event["delta"]["type"]) for event in deltas} == {(0, "text_delta")}
    start = found[0]["message"]
    assert (start["content"], start["stop_reason"], start["role"]) == ([], None, "assistant")
    assert found[1]["content_block"] == {"type": "text", "text": "", "citations": None}
    assert found[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert found[-2]["usage"]["output_tokens"] == len(SAID) + 1


@pytest.mark.proves(EventDelta="partial_json thinking")
def test_a_stream_gives_each_kind_of_block_bit_by_bit(tool_model: Path, thinking_model: Path) -> None:
    calls = named_events(
        ask(FakeEngine(tool_model, context=4096, says=CALL), "POST", PATH, body(stream=True, tools=[WEATHER])).text
    )
    pieces = [event["delta"]["partial_json"] for event in calls if event.get("delta", {}).get("partial_json")]
    assert len(pieces) > 1
    assert json.loads("".join(pieces)) == {"city": "Bonn"}
    assert [event["index"] for event in calls if event["type"] == "content_block_start"] == [0, 1]
    thinking = FakeEngine(thinking_model, says="Let me see.</think>\n\nFour.")
    thoughts = named_events(ask(thinking, "POST", PATH, body(stream=True)).text)
    assert "".join(
        event["delta"].get("thinking", "") for event in thoughts if "index" in event and "delta" in event
    ) == ("Let me see.")


@pytest.mark.proves(message_events="error", MessageEvent="error", AnthropicErrorDetail="type message")
def test_a_failure_in_the_midst_of_a_stream_is_its_last_event(engine: FakeEngine) -> None:
    engine.failure = EngineDeadError("It broke.")
    found = named_events(ask(engine, "POST", PATH, body(stream=True)).text)
    assert found[-1] == {"type": "error", "error": {"type": "overloaded_error", "message": "It broke."}}


@pytest.mark.proves(
    count_tokens="model messages system tools tool_choice thinking output_config", TokenCount="input_tokens"
)
def test_the_count_of_tokens_is_that_of_the_prompt(tool_model: Path) -> None:
    engine = FakeEngine(tool_model, context=4096, says="Fine.")
    fields = {
        "system": "Be kind",
        "tools": [WEATHER],
        "tool_choice": {"type": "auto"},
        "thinking": {"type": "disabled"},
    }
    create(engine, **fields)
    asked = {"model": "Echo-1B", "messages": HELLO, "output_config": {}, **fields}
    counted = ask(engine, "POST", f"{PATH}/count_tokens", asked)
    assert counted.json() == {"input_tokens": len(engine.added[0].prompt_token_ids)}


def test_anthropics_client_reads_answers_streams_counts_and_errors(engine: FakeEngine) -> None:
    async def work(client: AsyncAnthropic) -> None:
        cold: Any = {"temperature": 0}
        answer = await client.messages.create(model="Echo-1B", max_tokens=50, messages=HELLO, extra_body=cold)
        assert answer.content[0].type == "text"
        assert (answer.content[0].text, answer.stop_reason, answer._request_id) == (SAID, "end_turn", answer.id)
        async with client.messages.stream(model="Echo-1B", max_tokens=50, messages=HELLO, extra_body=cold) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            final = await stream.get_final_message()
        assert text == SAID
        assert final.usage.output_tokens == answer.usage.output_tokens
        count = await client.messages.count_tokens(model="Echo-1B", messages=HELLO)
        assert count.input_tokens == answer.usage.input_tokens
        with pytest.raises(anthropic.NotFoundError) as unknown:
            await client.messages.create(model="none", max_tokens=5, messages=HELLO)
        error: Any = unknown.value.body
        assert (error["type"], error["error"]["type"]) == ("error", "not_found_error")
        with pytest.raises(anthropic.BadRequestError, match="619 tokens"):
            await client.messages.create(
                model="Echo-1B", max_tokens=5, messages=[{"role": "user", "content": "x" * 600}]
            )

    with_client(engine, work)


def test_anthropics_client_calls_a_tool_and_gives_its_result(tool_model: Path) -> None:
    engine = FakeEngine(tool_model, context=4096, says=CALL)

    async def work(client: AsyncAnthropic) -> None:
        async with client.messages.stream(model="Echo-1B", max_tokens=200, messages=HELLO, tools=[WEATHER]) as stream:
            first = await stream.get_final_message()
        call = first.content[-1]
        assert call.type == "tool_use"
        assert call.input == {"city": "Bonn"}
        engine.says = "It rains."
        result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "Rain in Bonn"}
        turns: Any = [*HELLO, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
        second = await client.messages.create(model="Echo-1B", max_tokens=200, messages=turns, tools=[WEATHER])
        assert second.content[0].type == "text"
        assert second.content[0].text == "It rains."

    with_client(engine, work)
    text = prompt_of(engine)
    assert text.index("I look.") < text.index('{"city": "Bonn"}', text.index("I look.")) < text.index("Rain in Bonn")


def test_anthropics_key_header_opens_the_door(engine: FakeEngine) -> None:
    async def work(client: AsyncAnthropic) -> None:
        await client.messages.create(model="Echo-1B", max_tokens=5, messages=HELLO)
        with pytest.raises(anthropic.AuthenticationError) as refused:
            await client.with_options(api_key="wrong").messages.create(model="Echo-1B", max_tokens=5, messages=HELLO)
        error: Any = refused.value.body
        assert error["error"]["type"] == "authentication_error"

    with_client(engine, work, api_keys=("right",))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
            "messages[0].content[0].tool_use_id",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "tool_result", "tool_use_id": "c", "content": [{"type": "image"}]}],
                    }
                ]
            },
            "messages[0].content[0].content[0]",
        ),
        (
            {
                "messages": [
                    *HELLO,
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]},
                ]
            },
            "tool call",
        ),
        ({"system": [{"type": "image"}]}, "system[0]"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0]"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{**WEATHER, "name": "no such name!"}]}, "name"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ],
)
def test_what_cannot_be_is_refused_in_anthropics_shape(engine: FakeEngine, fields: dict[str, Any], named: str) -> None:
    response = ask(engine, "POST", PATH, body(**fields))
    answer = response.json()
    assert (response.status_code, answer["type"], answer["error"]["type"]) == (400, "error", "invalid_request_error")
    assert named in answer["error"]["message"]
    assert not engine.added


def test_a_path_below_that_is_not_there_answers_in_anthropics_shape(engine: FakeEngine) -> None:
    response = ask(engine, "POST", f"{PATH}/batches", {})
    assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")


@pytest.mark.proves(OutputConfig="format", OutputFormat="type schema")
def test_a_structured_answer_is_held_to_its_schema(engine: FakeEngine) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    create(engine, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert "%json" in (engine.added[0].params.grammar or "")
    wrong = body(output_config={"format": {"type": "json_schema", "schema": {"type": "array", "uniqueItems": True}}})
    response = ask(engine, "POST", PATH, wrong)
    assert response.status_code == 400
    assert "output_config.format" in response.json()["error"]["message"]
