"""Talking to a server over the OpenAI API: ours, and one that misbehaves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from penstock.core.errors import AuthenticationError, ConfigError, EngineDeadError, InvalidRequestError, PenstockError
from penstock.engine.chat import Conversation, ReplyStats
from penstock.engine.types import SamplingParams
from penstock.server.remote import RemoteTalker
from support.eventually import eventually
from support.fake_engine import FakeEngine, write_model
from support.listening import listening
from support.live_server import serve
from support.scripted_api import Reply, ScriptedApi

if TYPE_CHECKING:
    from pathlib import Path

GREEDY = SamplingParams(temperature=0.0, max_tokens=None)
HELLO = [{"role": "user", "content": "hello"}]


async def reply(url: str, params: SamplingParams = GREEDY, **options: str) -> tuple[str, ReplyStats]:
    stats = ReplyStats()
    async with RemoteTalker(url, **options) as talker:
        return "".join([piece async for piece in talker.reply(HELLO, params, stats)]), stats


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_our_own_server_is_spoken_to_whatever_form_its_address_has(tmp_path: Path, suffix: str) -> None:
    async def talk() -> tuple[str, ReplyStats]:
        async with listening(FakeEngine(write_model(tmp_path))) as url:
            return await reply(url + suffix)

    text, stats = asyncio.run(talk())
    assert text == "user\nhello\nassistant\n"
    assert stats.finish_reason == "stop"
    assert stats.prompt_tokens > 0
    assert stats.completion_tokens > 0


def test_every_parameter_that_was_set_arrives(tmp_path: Path) -> None:
    params = SamplingParams(
        temperature=0.5, top_p=0.9, top_k=4, min_p=0.1, repetition_penalty=1.1, frequency_penalty=0.2,
        presence_penalty=0.3, stop=("x",), stop_token_ids=(9,), logit_bias={8: 1.0}, seed=5, max_tokens=7,
        min_tokens=2, ignore_eos=True,
    )  # fmt: skip
    engine = FakeEngine(write_model(tmp_path))

    async def talk() -> None:
        async with listening(engine) as url:
            await reply(url, params)

    asyncio.run(talk())
    arrived = engine.added[0].params
    assert {name: getattr(arrived, name) for name in params.__struct_fields__} == {
        name: getattr(params, name) for name in params.__struct_fields__
    }


def test_an_answer_that_is_stopped_is_aborted_on_the_server(tmp_path: Path) -> None:
    engine = FakeEngine(write_model(tmp_path), held=True)

    async def talk() -> None:
        async with listening(engine) as url, RemoteTalker(url) as talker:
            conversation = Conversation(talker, GREEDY)
            answer = conversation.say("hello")
            asyncio.get_running_loop().call_later(0.01, engine.release, 3)
            await anext(answer)
            await answer.aclose()
            await eventually(lambda: bool(engine.aborted), "the server's engine was told")

    asyncio.run(talk())


def test_the_servers_errors_come_as_they_were_there(tmp_path: Path) -> None:
    async def talk() -> None:
        async with listening(FakeEngine(write_model(tmp_path)), api_keys=("secret",)) as url:
            with pytest.raises(AuthenticationError):
                await reply(url)
            with pytest.raises(InvalidRequestError, match=r"max_tokens|context"):
                await reply(url, SamplingParams(max_tokens=100_000), api_key="secret")
            assert "hello" in (await reply(url, api_key="secret"))[0]

    asyncio.run(talk())


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (Reply(error="The core died."), PenstockError, "The core died"),
        (Reply(cut=True), EngineDeadError, "before it was finished"),
        (Reply(status=500, error="Broken."), PenstockError, "Broken"),
    ],
    ids=["error in the stream", "stream ends early", "error before the stream"],
)
def test_an_answer_that_goes_wrong_is_an_error(said: Reply, kind: type[PenstockError], words: str) -> None:
    with serve(ScriptedApi(said).app) as live, pytest.raises(kind, match=words):
        asyncio.run(reply(live.url))


def test_without_a_server_the_error_says_how_to_start_one() -> None:
    with pytest.raises(ConfigError, match="penstock serve"):
        asyncio.run(reply("http://127.0.0.1:9"))


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://[", "", "http://exa mple"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        asyncio.run(reply(url))
