"""When something is wrong: the page says what, where, and goes on by itself where it can."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from support.chat_page import DESKTOP, PHONE, ChatPage
from support.live_server import serve
from support.scripted_api import Reply, ScriptedApi

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

    from support.chat_page import Open

TOO_LONG = "The prompt has 9000 tokens and the model takes 8192: shorten it by 808 tokens or more."


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_refusal_is_shown_in_place_in_the_servers_words_and_can_be_retried(
    open_page: Open, size: tuple[int, int]
) -> None:
    page, api = open_page(Reply(status=400, error=TOO_LONG), Reply(pieces=("Now it goes",)), size=size)
    page.say("Hello")
    page.wait(lambda: page.shows(".reply .alert"), "the error")
    assert TOO_LONG in page.text(".reply .alert")
    assert "400" in page.text(".reply .alert")
    assert page.find(".reply .alert").get_attribute("role") == "alert"
    assert not page.is_wider_than_its_window
    page.find(".retry").click()
    page.wait(lambda: page.replies == ["Now it goes"], "the answer to the retry")
    assert not page.shows(".alert")
    assert api.bodies[1]["messages"] == [{"role": "user", "content": "Hello"}]
    if size == DESKTOP:  # on a phone that would bring up the keyboard
        assert page.driver.switch_to.active_element.get_attribute("id") == "prompt"


def test_an_error_in_mid_stream_keeps_the_text_before_it(open_page: Open) -> None:
    page, _ = open_page(Reply(pieces=("Half a",), error="The engine core died while it worked on this request."))
    page.say("Hello")
    page.wait(lambda: page.shows(".reply .alert"), "the error")
    assert page.replies == ["Half a"]
    assert "The engine core died" in page.text(".reply .alert")


def test_a_stream_that_ends_early_is_not_taken_for_a_whole_one(open_page: Open) -> None:
    page, _ = open_page(Reply(pieces=("Half a",), cut=True))
    page.say("Hello")
    page.wait(lambda: page.shows(".reply .alert"), "the error")
    assert page.replies == ["Half a"]
    assert "before the reply was complete" in page.text(".reply .alert")


def test_markup_in_an_error_is_text(open_page: Open) -> None:
    page, _ = open_page(Reply(status=400, error="<img src=x onerror='window.struck = true'>"))
    page.say("Hello")
    page.wait(lambda: page.shows(".reply .alert"), "the error")
    assert "<img src=x" in page.text(".reply .alert")
    assert page.all(".alert img") == []


def test_a_server_that_is_loading_is_waited_for_and_the_draft_is_kept(open_page: Open) -> None:
    page, api = open_page(before=lambda api: setattr(api, "unready", "The engine is starting."), wait=False)
    page.wait(lambda: page.shows("#banner"), "the banner")
    assert "The engine is starting." in page.text("#banner")
    page.say("Patience")
    page.wait(lambda: "is-noticed" in page.find("#banner").get_attribute("class"), "the banner pointed out")
    assert page.find("#prompt").get_attribute("value") == "Patience"
    assert api.bodies == []
    api.unready = None
    page.wait_ready()
    assert not page.shows("#banner")
    page.say("")
    page.wait(lambda: page.replies == ["Hello from the script."], "the answer")
    assert page.said == ["Patience"]


def test_a_server_that_goes_away_and_comes_back_is_noticed(driver: WebDriver) -> None:
    api = ScriptedApi()
    with serve(api) as live:
        page = ChatPage(driver, live)
        page.wait_ready()
        port = urlsplit(live.url).port
    page.wait(lambda: "can’t be reached" in page.text("#banner"), "the banner")
    assert page.text("[data-figure=kv]") == "–"
    with serve(api, port=port):
        page.wait_ready()
        assert not page.shows("#banner")
        page.say("Back?")
        page.wait(lambda: page.replies == ["Hello from the script."], "the answer")


def test_a_connection_that_breaks_in_mid_stream_is_an_error_with_a_retry(driver: WebDriver) -> None:
    api = ScriptedApi(Reply(pieces=("Half a",), hold=True))
    with serve(api) as live:
        page = ChatPage(driver, live)
        page.wait_ready()
        page.say("Hello")
        page.wait(lambda: page.replies == ["Half a"], "the reply's beginning")
    page.wait(lambda: page.shows(".reply .alert .retry"), "the error and its retry")
    assert page.replies == ["Half a"]


def test_a_key_is_asked_for_kept_for_the_tab_alone_and_sent(open_page: Open) -> None:
    page, _ = open_page(before=lambda api: setattr(api, "key", "open-sesame"), wait=False)
    page.wait(lambda: page.shows("#enter-key"), "the request for a key")
    page.find("#enter-key").click()
    field = page.find("#key")
    field.send_keys("wrong\t")
    page.wait(lambda: page.find("#state").get_attribute("data-state") == "locked", "the wrong key refused")
    field.clear()
    field.send_keys("open-sesame\t")
    page.wait_ready()
    page.find("#close-settings").click()
    page.say("Hello")
    page.wait(lambda: page.replies == ["Hello from the script."], "the answer")
    stored = page.driver.execute_script("return JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert stored.count("open-sesame") == 1
    assert "open-sesame" in page.driver.execute_script("return sessionStorage.getItem('penstock.key')")
