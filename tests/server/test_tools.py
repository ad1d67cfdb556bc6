"""Tools over HTTP: what is asked reaches the model in its own format, what it calls comes back in OpenAI's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from support.asking import CHAT, ask, error_of, events
from support.chat_templates import QWEN_STYLE, TOOLS
from support.fake_engine import FakeEngine, write_model
from support.tool_templates import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Making = Callable[..., FakeEngine]

USER = {"role": "user", "content": "Weather?"}
TWO_CALLS = (
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        name: write_model(tmp_path_factory.mktemp(name), case.template, case.control) for name, case in FAMILIES.items()
    }


@pytest.fixture
def make(models: dict[str, Path]) -> Making:
    return lambda family="hermes", **options: FakeEngine(models[family], context=8192, **options)


def body(**fields: Any) -> dict[str, Any]:
    return {"messages": [USER], "tools": TOOLS, "temperature": 0, **fields}


def prompt_of(engine: FakeEngine) -> str:
    return engine.tokenizer.decode(engine.added[-1].prompt_token_ids, skip_special_tokens=False)


def choice_of(engine: FakeEngine, **fields: Any) -> dict[str, Any]:
    response = ask(engine, "POST", CHAT, body(**fields))
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


def streamed(engine: FakeEngine, **fields: Any) -> list[dict[str, Any]]:
    """The choices' parts of each event."""
    response = ask(engine, "POST", CHAT, body(stream=True, **fields))
    assert response.status_code == 200, response.text
    return [choice for part in events(response.text)[:-1] for choice in part["choices"]]


@pytest.mark.proves(
    chat="tools tool_choice",
    Tool="type function",
    FunctionDefinition="name description parameters",
    AssistantMessage="tool_calls content",
    MessageToolCall="id type function",
    CalledFunction="name arguments",
    ChatChoice="finish_reason",
)
def test_calls_come_back_in_openais_shape(make: Making) -> None:
    choice = choice_of(make(says="I'll look.\n\n" + TWO_CALLS))
    message = choice["message"]
    assert (message["content"], choice["finish_reason"]) == ("I'll look.", "tool_calls")
    assert [set(call) for call in message["tool_calls"]] == [{"id", "type", "function"}] * 2
    assert [call["type"] for call in message["tool_calls"]] == ["function"] * 2
    assert [call["function"] for call in message["tool_calls"]] == [
        {"name": "weather", "arguments": '{"city": "Köln"}'},
        {"name": "clock", "arguments": "{}"},
    ]
    assert len({call["id"] for call in message["tool_calls"]}) == 2
    assert choice_of(make(says=TWO_CALLS))["message"]["content"] is None


@pytest.mark.proves(
    Delta="tool_calls content role",
    ToolCallDelta="index id type function",
    FunctionDelta="name arguments",
    ChatChunkChoice="finish_reason",
)
def test_a_stream_has_each_call_begun_once_and_its_arguments_bit_by_bit(make: Making) -> None:
    parts = streamed(make(says="I'll look.\n\n" + TWO_CALLS))
    assert parts[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(part["delta"].get("content") or "" for part in parts) == "I'll look."
    deltas = [delta for part in parts for delta in part["delta"].get("tool_calls", [])]
    begun = [delta for delta in deltas if "id" in delta]
    assert [(delta["index"], delta["type"], delta["function"]) for delta in begun] == [
        (0, "function", {"name": "weather", "arguments": ""}),
        (1, "function", {"name": "clock", "arguments": ""}),
    ]
    arguments = ["", ""]
    for delta in deltas:
        arguments[delta["index"]] += delta["function"]["arguments"]
    assert arguments == ['{"city": "Köln"}', "{}"]
    assert len(deltas) > 10, "arguments come as they are generated"
    assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + ["tool_calls"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gets_the_tools_and_is_understood(make: Making, family: str) -> None:
    from penstock.models.tool_formats.detect import tool_format

    engine = make(family)
    assert engine.chat_template is not None
    spelling = tool_format(engine.chat_template)
    engine.says = spelling.write([("weather", '{"city": "Köln"}')])
    choice = choice_of(engine)
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Köln"}'}
    assert "Wie ist das Wetter in Köln?" in prompt_of(engine)
    assert engine.added[-1].params.grammar is not None
    calls = [delta for part in streamed(engine) for delta in part["delta"].get("tool_calls", [])]
    assert calls[0]["function"]["name"] == "weather"
    assert "".join(call["function"]["arguments"] for call in calls) == '{"city": "Köln"}'


@pytest.mark.parametrize("family", FAMILIES)
def test_calls_and_results_go_back_through_the_template(make: Making, family: str) -> None:
    engine = make(family, says="Sunny.")
    call = {"id": "call_of_another_server", "type": "function"}
    call["function"] = {"name": "weather", "arguments": '{"city": "東京"}'}  # type: ignore[assignment]
    answer = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "content": "22 degrees", "tool_call_id": "call_of_another_server"}
    for tools in (TOOLS, None):
        choice = choice_of(engine, messages=[USER, answer, result], tools=tools)
        assert (choice["message"]["content"], choice["finish_reason"]) == ("Sunny.", "stop")
        assert '{"city": "東京"}' in prompt_of(engine)
        assert "22 degrees" in prompt_of(engine)


def test_an_answer_without_calls_is_an_ordinary_answer(make: Making) -> None:
    engine = make(says="No <tool helps.\n")
    choice = choice_of(engine)
    assert choice["message"] == {"role": "assistant", "content": "No <tool helps.\n", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert "".join(part["delta"].get("content") or "" for part in streamed(engine)) == "No <tool helps.\n"


def test_tools_that_may_not_be_called_are_not_shown(make: Making) -> None:
    engine = make(says=TWO_CALLS)
    choice = choice_of(engine, tool_choice="none")
    assert choice["message"]["content"] == TWO_CALLS
    assert "weather" not in prompt_of(engine)
    assert engine.added[-1].params.grammar is None


@pytest.mark.proves(
    chat="tool_choice parallel_tool_calls",
    ToolChoice="type function allowed_tools",
    NamedTool="type function",
    NamedFunction="name",
    AllowedTools="mode tools",
)
def test_a_choice_decides_what_the_grammar_allows(make: Making) -> None:
    engine = make(says=TWO_CALLS)

    def grammar(**fields: Any) -> str:
        choice_of(engine, **fields)
        return engine.added[-1].params.grammar or ""

    weather = {"type": "function", "function": {"name": "weather"}}
    auto, required, named = grammar(), grammar(tool_choice="required"), grammar(tool_choice=weather)
    assert auto == grammar(tool_choice="auto")
    assert "text_then_call" in auto
    assert "text_then_call" not in required
    assert ("weather" in required, "clock" in required) == (True, True)
    assert ("weather" in named, "clock" in named) == (True, False)
    assert " call)*" in required
    assert " call)*" not in named
    assert " call)*" not in grammar(tool_choice="required", parallel_tool_calls=False)
    allowed = {"mode": "required", "tools": [weather]}
    of_some = grammar(tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert ("clock" in of_some, "text_then_call" in of_some, " call)*" in of_some) == (False, False, True)
    assert "clock" in prompt_of(engine)
    of_some = grammar(tool_choice={"type": "allowed_tools", "allowed_tools": {**allowed, "mode": "auto"}})
    assert "text_then_call" in of_some


def test_a_template_that_takes_one_call_a_message_gets_one(make: Making) -> None:
    engine = make("llama3", says="hi")
    choice_of(engine, parallel_tool_calls=True)
    assert " call)*" not in (engine.added[-1].params.grammar or "")


@pytest.mark.proves(FunctionDefinition="strict parameters")
def test_a_function_without_parameters_takes_no_arguments(make: Making) -> None:
    engine = make(says="hi")
    choice_of(engine, tools=[{"type": "function", "function": {"name": "f", "strict": True}}])
    assert '"properties": {}, "additionalProperties": false' in (engine.added[-1].params.grammar or "")


def test_a_call_that_was_cut_has_finish_reason_length(make: Making) -> None:
    choice = choice_of(make(says=TWO_CALLS), max_tokens=60)
    assert choice["finish_reason"] == "length"
    [call] = choice["message"]["tool_calls"]
    assert '{"city": "Köln"}'.startswith(call["function"]["arguments"])


def test_choices_are_read_apart_and_log_probabilities_are_all_there(make: Making) -> None:
    engine = make(says=TWO_CALLS)
    response = ask(engine, "POST", CHAT, body(n=3, logprobs=True, top_logprobs=1))
    choices = response.json()["choices"]
    assert [len(choice["message"]["tool_calls"]) for choice in choices] == [2, 2, 2]
    spoken = len(TWO_CALLS.encode()) + 1
    assert [len(choice["logprobs"]["content"]) for choice in choices] == [spoken] * 3
    parts = streamed(engine, n=3, logprobs=True)
    for index in range(3):
        mine = [part for part in parts if part["index"] == index]
        assert sum(len(part["logprobs"]["content"]) for part in mine if part["logprobs"]) == spoken
        assert mine[-1]["finish_reason"] == "tool_calls"


def test_a_stop_string_in_a_call_ends_it(make: Making) -> None:
    choice = choice_of(make(says=TWO_CALLS), stop="\n<tool_call>")
    assert (choice["stop_reason"], len(choice["message"]["tool_calls"])) == ("\n<tool_call>", 1)


@pytest.mark.proves(tokenize="tools")
def test_tools_count_when_a_conversation_is_tokenized(make: Making) -> None:
    engine = make(says="hi")
    choice_of(engine)
    counted = ask(engine, "POST", "/tokenize", {"messages": [USER], "tools": TOOLS}).json()
    assert counted["tokens"] == list(engine.added[-1].prompt_token_ids)


def test_mistrals_ids_are_made_to_fit_and_stay_in_pairs(make: Making) -> None:
    engine = make("mistral-named", says="ok")
    ids = ["call_1", "call_2", "abcdefghi"]
    calls = [{"id": each, "type": "function", "function": {"name": "clock", "arguments": "{}"}} for each in ids]
    results = [{"role": "tool", "content": "1", "tool_call_id": each} for each in ids]
    choice_of(engine, messages=[USER, {"role": "assistant", "tool_calls": calls}, *results])
    written = prompt_of(engine)
    given = [piece.partition("[ARGS]")[0] for piece in written.split("[CALL_ID]")[1:]]
    assert given[2] == "abcdefghi"
    assert len(set(given)) == 3
    assert all(f"[TOOL_RESULTS]{each}[TOOL_CONTENT]" in written for each in given)


WEATHER = TOOLS[0]["function"]
ODD = {"type": "array", "uniqueItems": True}
LOOSE = {"name": "f", "parameters": {"properties": {"a": ODD, "b": {"format": "x", "type": "string"}}}}
DEEP: dict[str, Any] = {}
for _ in range(400):
    DEEP = {"items": DEEP}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools[1].function.name"),
        (
            {"tools": [{"type": "function", "function": {**WEATHER, "parameters": {"type": "string"}}}]},
            "tools[0].function.parameters.type",
        ),
        ({"tools": [{"type": "function", "function": {**WEATHER, "parameters": []}}]}, "tools[0].function.parameters"),
        (
            {"tools": [{"type": "function", "function": {**LOOSE, "strict": True}}]},
            "tools[0].function.parameters.properties.b.format",
        ),
        (
            {"tools": [{"type": "function", "function": {**WEATHER, "parameters": {"not": DEEP}}}]},
            "tools[0].function.parameters",
        ),
        ({"tools": TOOLS * 300}, "tools"),
        ({"tools": None, "tool_choice": "required"}, "tool_choice"),
        ({"tools": [], "tool_choice": {"type": "function", "function": {"name": "weather"}}}, "tool_choice"),
        ({"tool_choice": "weather"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "nope"}}}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice.type"),
        ({"functions": [WEATHER]}, "functions"),
        ({"function_call": {"name": "weather"}}, "function_call"),
    ],
)
def test_what_is_wrong_with_tools_is_named(make: Making, fields: dict[str, Any], param: str) -> None:
    engine = make(says="hi")
    response = ask(engine, "POST", CHAT, body(**fields))
    error = error_of(response)
    assert (response.status_code, error["param"]) == (400, param)
    assert error["code"]
    assert not engine.added


@pytest.mark.proves(FunctionDefinition="strict")
@pytest.mark.parametrize("stream", [False, True])
def test_what_no_grammar_enforces_is_named_in_a_header_and_the_rest_is_enforced(make: Making, stream: bool) -> None:
    engine = make(says="hi")
    tools = [TOOLS[1], {"type": "function", "function": LOOSE}]
    answer = ask(engine, "POST", CHAT, body(tools=tools, stream=stream, mystery=1))
    places = "tools[1].function.parameters.properties"
    expected = ["mystery", f"{places}.a.uniqueItems", f"{places}.b.format"]
    assert sorted(answer.headers["x-penstock-ignored-fields"].split(", ")) == sorted(expected)
    grammar = engine.added[-1].params.grammar or ""
    assert '"a": {"type": "array"}' in grammar
    assert "uniqueItems" in prompt_of(engine), "the model is shown the schema as it came"
    assert "uniqueItems" not in grammar


def test_a_template_in_two_parts_uses_the_one_for_tools(tmp_path: Path) -> None:
    directory = write_model(tmp_path)
    config = json.loads((directory / "tokenizer_config.json").read_text())
    plain = config["chat_template"]
    named = [{"name": "default", "template": plain}, {"name": "tool_use", "template": QWEN_STYLE}]
    (directory / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": named}))
    engine = FakeEngine(directory, context=8192, says=TWO_CALLS)
    assert len(choice_of(engine)["message"]["tool_calls"]) == 2
    assert "# Tools" in prompt_of(engine)
