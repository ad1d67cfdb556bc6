"""Models that think: what they think comes apart from what they say, can be switched off, bounded, and is counted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from support.asking import CHAT, ask, error_of, events
from support.chat_templates import QWEN_STYLE, TOOLS
from support.fake_engine import FakeEngine, write_model
from support.tiny_chat import TEMPLATE
from support.tool_templates import ALWAYS_THINKING, CONTROL_THINKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Making = Callable[..., FakeEngine]

THOUGHT = "<think>\nhm, é\n</think>\n\nYes."
COUNT = len("\nhm, é\n".encode())
USER = {"role": "user", "content": "Well?"}
TEMPLATES = {
    "may": (QWEN_STYLE, ()),
    "always": (ALWAYS_THINKING, ()),
    "in control tokens": (CONTROL_THINKING, ("[THINK]", "[/THINK]")),
    "never": (TEMPLATE, ()),
    "by effort": ("{# </think> #}{{ reasoning_effort }}" + TEMPLATE, ()),
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        name: write_model(tmp_path_factory.mktemp("thinking"), template, control)
        for name, (template, control) in TEMPLATES.items()
    }


@pytest.fixture
def make(models: dict[str, Path]) -> Making:
    return lambda kind="may", **options: FakeEngine(models[kind], context=4096, **options)


def answer(engine: FakeEngine, **fields: Any) -> dict[str, Any]:
    response = ask(engine, "POST", CHAT, {"messages": [USER], "temperature": 0, **fields})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def message_of(engine: FakeEngine, **fields: Any) -> dict[str, Any]:
    message: dict[str, Any] = answer(engine, **fields)["choices"][0]["message"]
    return message


def prompt_of(engine: FakeEngine) -> str:
    return engine.tokenizer.decode(engine.added[-1].prompt_token_ids, skip_special_tokens=False)


@pytest.mark.proves(
    AssistantMessage="reasoning_content reasoning content",
    Usage="completion_tokens_details",
    CompletionTokensDetails="reasoning_tokens",
)
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("may", THOUGHT),
        ("always", THOUGHT.removeprefix("<think>\n")),
        ("in control tokens", THOUGHT.replace("<think>", "[THINK]").replace("</think>", "[/THINK]")),
    ],
)
def test_thinking_comes_apart_from_the_answer_and_is_counted(make: Making, kind: str, said: str) -> None:
    engine = make(kind, says=said)
    body = answer(engine)
    assert body["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Yes.",
        "refusal": None,
        "reasoning_content": "hm, é",
        "reasoning": "hm, é",
    }
    assert body["choices"][0]["finish_reason"] == "stop"
    counted = COUNT - (1 if kind == "always" else 0)
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": counted}
    assert engine.added[0].params.grammar is None, "without tools or structure nothing is constrained"


@pytest.mark.proves(Delta="reasoning_content reasoning content", chat="stream_options")
def test_a_stream_has_thinking_before_content_and_counts_it(make: Making) -> None:
    engine = make(says=THOUGHT)
    asked = {"messages": [USER], "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    *parts, end = events(ask(engine, "POST", CHAT, asked).text)[:-1]
    deltas = [part["choices"][0]["delta"] for part in parts]
    thought = "".join(delta.get("reasoning_content") or "" for delta in deltas)
    assert thought == "".join(delta.get("reasoning") or "" for delta in deltas) == "hm, é"
    assert "".join(delta.get("content") or "" for delta in deltas) == "Yes."
    kinds = [next(iter(delta)) for delta in deltas[1:] if delta]
    assert kinds == sorted(kinds, key=["reasoning_content", "content"].index)
    assert all(len(delta) < 3 for delta in deltas)
    assert end["usage"]["completion_tokens_details"] == {"reasoning_tokens": COUNT}
    assert parts[-1]["choices"][0]["finish_reason"] == "stop"


def test_usage_with_each_chunk_counts_thinking_so_far(make: Making) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    asked = {"messages": [USER], "temperature": 0, "stream": True, "stream_options": options, "n": 2}
    parts = events(ask(make(says=THOUGHT), "POST", CHAT, asked).text)[:-1]
    counts = [part["usage"]["completion_tokens_details"]["reasoning_tokens"] for part in parts]
    assert counts == sorted(counts)
    assert (counts[0] <= 2, counts[-1]) == (True, 2 * COUNT)


@pytest.mark.proves(chat="chat_template_kwargs")
def test_with_thinking_off_everything_is_content(make: Making) -> None:
    engine = make(says="<think>x</think>Yes.")
    message = message_of(engine, chat_template_kwargs={"enable_thinking": False})
    assert message == {"role": "assistant", "content": "<think>x</think>Yes.", "refusal": None}
    assert prompt_of(engine).endswith("<think>\n\n</think>\n\n")


def test_a_model_that_does_not_think_is_left_alone(make: Making) -> None:
    body = answer(make("never", says=THOUGHT))
    assert body["choices"][0]["message"]["content"] == THOUGHT
    assert "completion_tokens_details" not in body["usage"]


def test_an_answer_that_was_cut_while_thinking_has_no_content(make: Making) -> None:
    body = answer(make(says=THOUGHT), max_tokens=12)
    assert body["choices"][0]["message"]["content"] is None
    assert body["choices"][0]["message"]["reasoning"] == "hm, "
    assert body["choices"][0]["finish_reason"] == "length"


@pytest.mark.proves(chat="include_reasoning")
def test_reasoning_may_be_left_out_and_is_counted_all_the_same(make: Making) -> None:
    body = answer(make(says=THOUGHT), include_reasoning=False)
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "Yes.", "refusal": None}
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": COUNT}
    asked = {"messages": [USER], "temperature": 0, "stream": True, "include_reasoning": False}
    text = ask(make(says=THOUGHT), "POST", CHAT, asked).text
    assert "reasoning" not in text


@pytest.mark.proves(chat="reasoning_effort")
def test_effort_reaches_templates_that_read_it_and_none_switches_off(make: Making) -> None:
    engine = make("by effort", says="x")
    message_of(engine, reasoning_effort="high")
    assert prompt_of(engine).startswith("high")
    message_of(engine, reasoning_effort="low", chat_template_kwargs={"reasoning_effort": "mine"})
    assert prompt_of(engine).startswith("mine")
    engine = make(says="x")
    message_of(engine, reasoning_effort="none")
    assert prompt_of(engine).endswith("</think>\n\n")
    message_of(engine, reasoning_effort="none", chat_template_kwargs={"enable_thinking": True})
    assert prompt_of(engine).endswith("assistant\n")
    plain = make("never", says="x")
    message_of(plain, reasoning_effort="none")
    assert prompt_of(plain).endswith("assistant\n")


@pytest.mark.proves(chat="thinking_token_budget")
def test_a_budget_reaches_the_engine_where_there_is_thinking(make: Making) -> None:
    engine = make("always", says="hm</think>Yes.")
    message_of(engine, thinking_token_budget=5)
    limit = engine.added[-1].params.thinking
    assert limit is not None
    assert (limit.tokens, limit.begin, limit.end, limit.begun) == (5, "<think>", "</think>", True)
    assert engine.tokenizer.decode(limit.end_token_ids) == "</think>"
    for kind, fields in (
        ("always", {"thinking_token_budget": -1}),
        ("always", {}),
        ("never", {"thinking_token_budget": 5}),
        ("may", {"thinking_token_budget": 5, "chat_template_kwargs": {"enable_thinking": False}}),
    ):
        engine = make(kind, says="x")
        message_of(engine, **fields)
        assert engine.added[-1].params.thinking is None
    response = ask(make(), "POST", CHAT, {"messages": [USER], "thinking_token_budget": -2})
    assert (response.status_code, error_of(response)["param"]) == (400, "thinking_token_budget")


@pytest.mark.parametrize(
    ("kind", "begun", "reasoning", "content"),
    [
        ("always", "<think>\nI wonder", "more", "Yes."),
        ("always", "<think>\nI know.\n</think>\n\nWell", None, "more</think>Yes."),
        ("may", "Well", None, "more</think>Yes."),
    ],
)
def test_an_answer_goes_on_where_its_beginning_stops_thinking_or_not(
    make: Making, kind: str, begun: str, reasoning: str | None, content: str
) -> None:
    messages = [USER, {"role": "assistant", "content": begun}]
    message = message_of(make(kind, says="more</think>Yes."), messages=messages, continue_final_message=True)
    assert (message.get("reasoning"), message["content"]) == (reasoning, content)


@pytest.mark.proves(Message="reasoning reasoning_content")
@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_earlier_thinking_goes_to_the_template_under_either_name(make: Making, name: str) -> None:
    engine = make(says="x")
    call = {"id": "c", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    past = {"role": "assistant", "content": "", name: "I need the time", "tool_calls": [call]}
    message_of(engine, messages=[USER, past, {"role": "tool", "content": "12", "tool_call_id": "c"}], tools=TOOLS)
    assert "<think>\nI need the time\n</think>" in prompt_of(engine)


def test_tools_come_after_the_thinking(make: Making) -> None:
    call = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    engine = make(says=f"<think>\nmaybe {call}?\n</think>\n\n{call}")
    body = answer(engine, tools=TOOLS)
    message = body["choices"][0]["message"]
    assert message["reasoning_content"] == f"maybe {call}?"
    assert (message["content"], len(message["tool_calls"])) == (None, 1)
    assert body["choices"][0]["finish_reason"] == "tool_calls"
    assert "thoughts" in (engine.added[-1].params.grammar or "")


def test_control_tokens_of_thinking_are_text_and_others_are_not(make: Making) -> None:
    engine = make("in control tokens", says="[THINK]a<|im_start|>b[/THINK]c<|im_start|>d")
    message = message_of(engine)
    assert (message["reasoning"], message["content"]) == ("ab", "cd")
    assert json.dumps(message).count("THINK") == 0
