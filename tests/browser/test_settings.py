"""The settings panel: what is set is sent, kept, and checked where it is entered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from support.chat_page import DESKTOP, PHONE
from support.scripted_api import Reply, ScriptedApi

if TYPE_CHECKING:
    from support.chat_page import ChatPage, Open


def _set(page: ChatPage, name: str, text: str) -> None:
    field = page.find(f"#settings [name={name}]")
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(Keys.BACKSPACE)
    field.send_keys(text)


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_setting_is_in_the_request_and_outlives_a_reload(open_page: Open, size: tuple[int, int]) -> None:
    page, api = open_page(size=size)
    page.find("#open-settings").click()
    _set(page, "system", "You are terse.")
    _set(page, "temperature", "0")
    _set(page, "top_p", "0.5")
    _set(page, "max_tokens", "77")
    _set(page, "seed", "12345")
    _set(page, "stop", "END\n\\n\\n")
    assert not page.is_wider_than_its_window
    page.find("#close-settings").click()
    page.driver.refresh()
    page.wait_ready()
    page.say("Hello")
    page.wait_idle()
    body = api.bodies[0]
    assert body["messages"] == [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "Hello"},
    ]
    chosen = {name: body[name] for name in ("temperature", "top_p", "max_tokens", "seed", "stop", "model")}
    assert chosen == {
        "temperature": 0,
        "top_p": 0.5,
        "max_tokens": 77,
        "seed": 12345,
        "stop": ["END", "\n\n"],
        "model": "scripted-1B",
    }


def test_what_is_left_empty_is_the_servers_choice(open_page: Open) -> None:
    page, api = open_page()
    page.find("#open-settings").click()
    for name in ("temperature", "top_p", "max_tokens"):
        _set(page, name, "")
    page.find("#settings").send_keys(Keys.ESCAPE)
    page.say("Hello")
    page.wait_idle()
    assert set(api.bodies[0]) == {"messages", "model", "stream", "stream_options"}


def test_a_reply_has_a_limit_of_its_own_while_the_context_has_room_for_it(open_page: Open) -> None:
    def small_context(api: ScriptedApi) -> None:
        api.models = [{"id": "small", "object": "model", "max_model_len": 800}]

    page, api = open_page(before=small_context)
    page.say("Hello")
    page.wait_idle()
    page.say("x" * 600)
    page.wait(lambda: len(api.bodies) == 2, "the second request")
    assert api.bodies[0]["max_tokens"] == 200
    assert "max_tokens" not in api.bodies[1]


def test_a_wrong_value_is_named_at_its_field_and_not_sent(open_page: Open) -> None:
    page, api = open_page()
    page.find("#open-settings").click()
    _set(page, "temperature", "7")
    assert page.text("#temperature-complaint")
    assert page.find("#temperature").get_attribute("aria-invalid") == "true"
    page.find("#close-settings").click()
    page.find("#open-settings").click()
    assert page.find("#temperature").get_attribute("value") != "7"
    page.find("#close-settings").click()
    page.say("Hello")
    page.wait_idle()
    assert api.bodies[0].get("temperature") != 7


def test_slider_and_number_show_the_same(open_page: Open) -> None:
    page, _ = open_page()
    page.find("#open-settings").click()
    page.find("[name=temperature_slider]").send_keys(Keys.HOME)
    assert page.find("#temperature").get_attribute("value") == "0"
    _set(page, "temperature", "1.5")
    assert page.find("[name=temperature_slider]").get_attribute("value") == "1.5"


def test_reset_gives_the_standard_values_back(open_page: Open) -> None:
    page, api = open_page()
    page.say("one")
    page.wait_idle()
    page.find("#open-settings").click()
    _set(page, "temperature", "2")
    _set(page, "system", "Shout.")
    page.find("#settings [type=reset]").click()
    assert page.find("#system").get_attribute("value") == ""
    page.find("#close-settings").click()
    page.find(".regenerate").click()
    page.wait(lambda: len(api.bodies) == 2, "the second request")
    assert api.bodies[0] == api.bodies[1]


def test_the_chosen_model_is_asked_and_remembered(open_page: Open) -> None:
    def two_models(api: ScriptedApi) -> None:
        api.models = [{"id": "small", "object": "model"}, {"id": "large", "object": "model"}]

    page, api = open_page(before=two_models)
    assert page.text("#empty-model") == "small"
    Select(page.find("#model")).select_by_value("large")
    assert page.text("#empty-model") == "large"
    page.driver.refresh()
    page.wait_ready()
    page.say("Hello")
    page.wait_idle()
    assert api.bodies[0]["model"] == "large"


def test_escape_in_the_panel_closes_it_and_leaves_the_reply_running(open_page: Open) -> None:
    page, api = open_page(Reply(pieces=("still",), hold=True))
    page.say("Go")
    page.wait(lambda: page.replies == ["still"], "the reply's beginning")
    page.find("#open-settings").click()
    page.find("#system").send_keys(Keys.ESCAPE)
    page.wait(lambda: not page.shows("#settings"), "the panel closed")
    assert page.find("#composer").get_attribute("data-busy") == "true"
    page.on_server(api.release)
    page.wait_idle()
    assert not api.client_left.is_set()
