"""The chat page over Penstock's own server: its policy for scripts, its errors, its metrics, its engine client."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

import pytest

from support.chat_page import DESKTOP, PHONE, ChatPage
from support.fake_engine import FakeEngine, write_model
from support.live_server import serve_engine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from selenium.webdriver.chrome.webdriver import WebDriver


class Visit(Protocol):
    """Opens the page over an engine that says prompts back; options are the server's settings."""

    def __call__(
        self, *, held: bool = False, size: tuple[int, int] = DESKTOP, **settings: Any
    ) -> tuple[ChatPage, FakeEngine]: ...


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_an_echo_streams_in_under_the_servers_own_policy(visit: Visit, size: tuple[int, int]) -> None:
    page, engine = visit(size=size)
    page.wait_ready()
    assert page.text("#empty-model") == "Echo-1B"
    page.say("Straße 😀 <b>")
    page.wait_idle()
    assert "Straße 😀 <b>" in page.replies[0]
    assert "out" in page.text(".reply .figures")
    assert engine.running == 0
    assert not page.is_wider_than_its_window
    assert page.complaints() == []


def test_settings_reach_the_engine(visit: Visit) -> None:
    page, engine = visit()
    page.settle(system="Be brief.", temperature=0.25, top_p=0.75, max_tokens=9, seed=41, stop="zzz")
    page.wait_ready()
    page.say("Hello")
    page.wait_idle()
    params = engine.added[0].params
    assert (params.temperature, params.top_p, params.max_tokens, params.seed) == (0.25, 0.75, 9, 41)
    assert params.stop == ("zzz",)
    assert "Be brief." in engine.tokenizer.decode(engine.added[0].prompt_token_ids)
    assert "token limit" in page.text(".reply .note")


def test_stop_frees_the_request_and_its_figures_stay(visit: Visit) -> None:
    page, engine = visit(held=True)
    page.wait_ready()
    page.say("A long story")
    page.wait(lambda: engine.running == 1, "the request in the engine")
    page.on_server(engine.release, 6)
    page.wait(lambda: page.replies and page.replies[0], "the reply's beginning")
    page.wait(lambda: page.text("[data-figure=running]") == "1", "one sequence running")
    assert page.text("[data-figure=kv]") == "1.6 %"
    page.find("#composer button").click()
    page.wait_idle()
    page.wait(lambda: engine.aborted == [engine.added[0].request_id], "the abort in the engine")
    assert engine.running == 0
    assert "out" in page.text(".reply .figures")


def test_a_core_that_dies_is_told_in_place_and_waited_for(visit: Visit) -> None:
    page, engine = visit(held=True)
    page.wait_ready()
    page.say("Hello")
    page.wait(lambda: engine.running == 1, "the request in the engine")
    page.on_server(engine.die)
    page.wait(lambda: page.shows(".reply .alert"), "the error")
    assert "died" in page.text(".reply .alert")
    page.wait(lambda: page.shows("#banner"), "the banner")
    assert "being started again" in page.text("#banner-reason")
    engine.state = "ready"
    page.wait_ready()
    page.on_server(engine.release, 1000)
    page.find(".retry").click()
    page.wait(lambda: page.replies[0] and not page.shows(".alert"), "the answer to the retry")


def test_a_conversation_over_the_context_is_refused_with_both_lengths(visit: Visit) -> None:
    page, engine = visit()
    page.wait_ready()
    page.say("long " * 200)
    page.wait(lambda: page.shows(".reply .alert"), "the error")
    assert "512" in page.text(".reply .alert")
    assert engine.added == []


def test_a_server_with_a_key_asks_for_it(visit: Visit) -> None:
    page, _ = visit(api_keys=("s3cret",))
    page.wait(lambda: page.shows("#enter-key"), "the request for a key")
    page.find("#enter-key").click()
    page.find("#key").send_keys("s3cret\t")
    page.wait_ready()
    page.find("#close-settings").click()
    page.say("Hello")
    page.wait_idle()
    assert "Hello" in page.replies[0]


@pytest.fixture(scope="module")
def echo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("echo"))


@pytest.fixture
def visit(driver: WebDriver, echo_model: Path) -> Iterator[Visit]:
    with ExitStack() as servers:

        def open_it(
            *, held: bool = False, size: tuple[int, int] = DESKTOP, **settings: Any
        ) -> tuple[ChatPage, FakeEngine]:
            engine = FakeEngine(echo_model, held=held)
            page = ChatPage(driver, servers.enter_context(serve_engine(engine, **settings)), size)
            page.settle(temperature=0)  # else this engine turns its echo by the seed
            return page, engine

        yield open_it
