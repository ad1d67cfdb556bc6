"""A conversation's turns, settings and counts, over an engine that says the prompt back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from penstock.core.errors import EngineDeadError, InvalidRequestError
from penstock.engine.chat import Conversation, EngineTalker, ReplyStats
from penstock.engine.types import SamplingParams
from support.fake_engine import FakeEngine, write_model

if TYPE_CHECKING:
    from pathlib import Path

GREEDY = SamplingParams(temperature=0.0, max_tokens=None)


@pytest.fixture
def engine(tmp_path: Path) -> FakeEngine:
    return FakeEngine(write_model(tmp_path))


def conversation_with(engine: FakeEngine, system: str | None = None) -> Conversation:
    return Conversation(EngineTalker(engine, "echo"), GREEDY, system)


async def whole(conversation: Conversation, text: str) -> str:
    return "".join([piece async for piece in conversation.say(text)])


def test_a_turn_is_streamed_remembered_and_counted(engine: FakeEngine) -> None:
    conversation = conversation_with(engine, "Be brief.")

    async def talk() -> None:
        first = await whole(conversation, "hello")
        assert first == "system\nBe brief.\nuser\nhello\nassistant\n"
        second = await whole(conversation, "again")
        assert "hello" in second
        assert first in second

    asyncio.run(talk())
    assert [turn["role"] for turn in conversation.turns] == ["user", "assistant"] * 2
    assert conversation.last is not None
    assert conversation.last.finish_reason == "stop"
    assert conversation.last.completion_tokens > 0
    assert 0 <= (conversation.last.ttft or -1) <= conversation.last.seconds


def test_an_answer_stopped_half_way_is_kept_as_far_as_it_came_and_aborted(engine: FakeEngine) -> None:
    conversation = conversation_with(engine)

    async def talk() -> None:
        answer = conversation.say("hello")
        first = await anext(answer)
        await answer.aclose()
        assert conversation.turns == [{"role": "user", "content": "hello"}, {"role": "assistant", "content": first}]
        assert engine.running == 0

    asyncio.run(talk())
    assert engine.aborted
    assert conversation.last is not None
    assert conversation.last.finish_reason is None


def test_a_turn_that_fails_is_taken_back(engine: FakeEngine) -> None:
    conversation = conversation_with(engine)
    engine.state = "restarting"

    async def talk() -> None:
        with pytest.raises(EngineDeadError):
            await whole(conversation, "hello")
        assert conversation.turns == []
        engine.state = "ready"
        assert "hello" in await whole(conversation, "hello")

    asyncio.run(talk())


def test_reset_forgets_the_turns_and_keeps_the_rest(engine: FakeEngine) -> None:
    conversation = conversation_with(engine, "Be brief.")
    asyncio.run(whole(conversation, "hello"))
    conversation.set("top_p", "0.5")
    conversation.reset()
    assert conversation.turns == []
    assert (conversation.system, conversation.params.top_p) == ("Be brief.", 0.5)


def test_settings_are_typed_as_people_type_them(engine: FakeEngine) -> None:
    conversation = conversation_with(engine)
    for name, text, value in (
        ("temperature", "0.2", 0.2), ("max_tokens", "9", 9), ("max_tokens", "none", None), ("stop", "END", ("END",)),
        ("stop", '["a", "b"]', ("a", "b")), ("ignore_eos", "true", True), ("seed", "3", 3),
    ):  # fmt: skip
        conversation.set(name, text)
        assert getattr(conversation.params, name) == value
    with pytest.raises(InvalidRequestError, match="Did you mean 'temperature'"):
        conversation.set("temprature", "1")
    for name, text in (("temperature", "hot"), ("temperature", "9"), ("max_tokens", ""), ("temperature", "nan")):
        before = conversation.params
        with pytest.raises(InvalidRequestError, match=name):
            conversation.set(name, text)
        assert conversation.params == before


def test_a_model_without_a_chat_template_says_so(engine: FakeEngine) -> None:
    engine.chat_template = None
    with pytest.raises(InvalidRequestError, match="no chat template"):
        asyncio.run(whole(conversation_with(engine), "hello"))


def test_the_pace_leaves_out_the_wait_for_the_first_token() -> None:
    assert ReplyStats(completion_tokens=11, ttft=1.0, seconds=2.0).tokens_per_second == pytest.approx(10.0)
    assert ReplyStats(completion_tokens=1, ttft=1.0, seconds=1.0).tokens_per_second is None
    assert ReplyStats().tokens_per_second is None
