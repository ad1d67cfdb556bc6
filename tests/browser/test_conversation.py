"""Talking on the chat page: sending, stopping, changing one's mind, and coming back later."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.keys import Keys

from support.chat_page import DESKTOP, PHONE
from support.scripted_api import Reply

if TYPE_CHECKING:
    from support.chat_page import Open


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_message_sent_with_enter_streams_its_answer(open_page: Open, size: tuple[int, int]) -> None:
    page, api = open_page(Reply(pieces=("Deep", " water", " runs", " still", "."), pause=0.05), size=size)
    page.say("Tell me about water")
    page.wait(lambda: page.replies and page.replies[0].startswith("Deep"), "the reply's beginning")
    page.wait_idle()
    assert page.said == ["Tell me about water"]
    assert page.replies == ["Deep water runs still."]
    assert api.bodies[0]["messages"] == [{"role": "user", "content": "Tell me about water"}]
    assert api.bodies[0]["stream"] is True
    figures = page.text(".reply .figures")
    assert "36 in (32 cached)" in figures
    assert "5 out" in figures
    assert "tok/s" in figures
    assert not page.shows("#empty")
    assert not page.is_wider_than_its_window
    assert page.complaints() == []


def test_live_figures_show_rate_first_token_and_the_servers_load(open_page: Open) -> None:
    page, _ = open_page(Reply(pieces=("a", "b", "c", "d"), pause=0.06))
    page.wait(lambda: page.text("[data-figure=kv]") == "42 %", "the KV use")
    assert page.text("[data-figure=running]") == "3"
    assert page.text("[data-figure=waiting]").strip() == "+1 waiting"
    page.say("Hello")
    page.wait_idle()
    assert 1 < float(page.text("[data-figure=rate]")) < 100
    assert page.text("[data-figure=ttft]").endswith("s")


def test_figures_the_server_does_not_give_are_left_open(open_page: Open) -> None:
    page, api = open_page(before=lambda api: setattr(api, "metrics", "nonsense {{{\npenstock_kv_blocks NaN\n"))
    page.wait(lambda: api.paths.count("/metrics") >= 2, "a second look at the metrics")
    assert page.text("[data-figure=kv]") == "–"
    assert page.complaints() == []


def test_a_hidden_page_asks_nothing(open_page: Open) -> None:
    page, api = open_page()
    hide = "Object.defineProperty(document, 'visibilityState', {value: arguments[0], configurable: true});"
    page.driver.execute_script(hide + "document.dispatchEvent(new Event('visibilitychange'))", "hidden")
    page.script("await new Promise((resolve) => setTimeout(resolve, 400))")  # a look that was under way
    asked = len(api.paths)
    page.script("await new Promise((resolve) => setTimeout(resolve, 2600))")
    assert len(api.paths) == asked
    page.driver.execute_script(hide + "document.dispatchEvent(new Event('visibilitychange'))", "visible")
    page.wait(lambda: len(api.paths) > asked, "the looks going on")


@pytest.mark.parametrize("how", ["button", "escape"])
def test_a_stopped_reply_stays_and_the_server_learns_of_it(open_page: Open, how: str) -> None:
    page, api = open_page(Reply(pieces=("Once", " upon"), hold=True))
    page.say("A story")
    page.wait(lambda: page.replies == ["Once upon"], "the reply's beginning")
    if how == "button":
        page.find("#composer button").click()
    else:
        page.find("#prompt").send_keys(Keys.ESCAPE)
    page.wait_idle()
    assert api.client_left.wait(10), "the server was not told"
    assert page.replies == ["Once upon"]
    assert "Stopped." in page.text(".reply .note")
    page.say("Go on")
    page.wait(lambda: len(api.bodies) == 2, "the next request")
    assert [m["content"] for m in api.bodies[1]["messages"]] == ["A story", "Once upon", "Go on"]


def test_shift_enter_begins_a_line_and_an_input_methods_enter_sends_nothing(open_page: Open) -> None:
    page, api = open_page()
    area = page.write("one")
    area.send_keys(Keys.SHIFT, Keys.ENTER)
    area.send_keys("two")
    page.driver.execute_script(
        "arguments[0].dispatchEvent(new KeyboardEvent('keydown',"
        " {key: 'Enter', isComposing: true, bubbles: true, cancelable: true}))",
        area,
    )
    assert area.get_attribute("value") == "one\ntwo"
    area.send_keys(Keys.ENTER)
    page.wait_idle()
    assert [body["messages"][-1]["content"] for body in api.bodies] == ["one\ntwo"]
    assert area.get_attribute("value") == ""


def test_blank_messages_are_not_sent(open_page: Open) -> None:
    page, api = open_page()
    page.say("   ")
    assert not page.find("#composer button").is_enabled()
    assert api.bodies == []


def test_regenerate_asks_again_without_the_old_answer(open_page: Open) -> None:
    page, api = open_page(Reply(pieces=("first",)), Reply(pieces=("second",)))
    page.say("Again?")
    page.wait(lambda: page.shows(".regenerate"), "the button")
    page.find(".regenerate").click()
    page.wait(lambda: page.replies == ["second"], "the other answer")
    assert api.bodies[0]["messages"] == api.bodies[1]["messages"]


def test_an_edited_message_replaces_what_was_said(open_page: Open) -> None:
    page, api = open_page()
    page.say("Misstake")
    page.wait_idle()
    page.find("[data-edit]").click()
    editor = page.find(".editor")
    editor.send_keys(Keys.CONTROL, "a")
    editor.send_keys("Mistake", Keys.ENTER)
    page.wait(lambda: len(api.bodies) == 2, "the second request")
    page.wait_idle()
    assert page.said == ["Mistake"]
    assert api.bodies[1]["messages"] == [{"role": "user", "content": "Mistake"}]


def test_escape_leaves_an_edit_and_the_conversation_as_it_was(open_page: Open) -> None:
    page, api = open_page()
    page.say("Fine as it is")
    page.wait_idle()
    page.find("#prompt").send_keys(Keys.ARROW_UP)
    page.find(".editor").send_keys("not this", Keys.ESCAPE)
    assert page.all(".editor") == []
    assert page.said == ["Fine as it is"]
    assert len(api.bodies) == 1


def test_a_conversation_and_a_draft_outlive_a_reload(open_page: Open) -> None:
    page, api = open_page()
    page.say("Remember this")
    page.wait_idle()
    page.write("half a thou")
    page.driver.refresh()
    page.wait_ready()
    assert page.said == ["Remember this"]
    assert page.replies == ["Hello from the script."]
    assert "5 out" in page.text(".reply .figures")
    assert page.find("#prompt").get_attribute("value") == "half a thou"
    page.say("ght")
    page.wait(lambda: len(api.bodies) == 2, "the next request")
    assert len(api.bodies[1]["messages"]) == 3


def test_a_reload_in_mid_stream_keeps_what_had_come(open_page: Open) -> None:
    page, api = open_page(Reply(pieces=("So", " far"), hold=True))
    page.say("Go")
    page.wait(lambda: page.replies == ["So far"], "the reply's beginning")
    page.driver.refresh()
    page.wait_ready()
    assert api.client_left.wait(10), "the server was not told"
    assert page.replies == ["So far"]
    assert "Stopped." in page.text(".reply .note")


def test_what_another_program_left_in_the_storage_does_no_harm(open_page: Open) -> None:
    page, _ = open_page()
    page.driver.execute_script(
        "localStorage.setItem('penstock.conversation.v1', arguments[0]);"
        "localStorage.setItem('penstock.settings.v1', arguments[0]);"
        "Storage.prototype.setItem = Storage.prototype.removeItem = () => {};",  # the page that leaves saves too
        '[{"role": "oracle"}, 7, null, {"role": "user", "content": "kept"}]',
    )
    page.driver.refresh()
    page.wait_ready()
    assert page.said == ["kept"]


def test_full_storage_is_said_and_the_chat_goes_on(open_page: Open) -> None:
    page, _ = open_page()
    page.driver.execute_script(
        "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };"
    )
    page.say("Too much")
    page.wait_idle()
    assert page.replies == ["Hello from the script."]
    assert "can’t be kept" in page.text("#unsaved")


def test_a_cleared_conversation_can_be_had_back(open_page: Open) -> None:
    page, _ = open_page()
    page.say("Precious")
    page.wait_idle()
    page.find("#clear").click()
    assert page.shows("#empty")
    assert page.said == []
    page.find("#undo-button").click()
    assert page.said == ["Precious"]
    assert not page.shows("#empty")


def test_clearing_in_mid_stream_stops_the_reply(open_page: Open) -> None:
    page, api = open_page(Reply(pieces=("a",), hold=True), Reply(pieces=("new",)))
    page.say("Old")
    page.wait(lambda: page.replies == ["a"], "the reply's beginning")
    page.find("#clear").click()
    assert api.client_left.wait(10), "the server was not told"
    page.wait_idle()
    assert page.text("[data-figure=ttft]") == "–"
    page.say("New")
    page.wait(lambda: page.replies == ["new"], "the new reply")
    assert api.bodies[1]["messages"] == [{"role": "user", "content": "New"}]


def test_a_suggested_prompt_is_sent_at_a_click(open_page: Open) -> None:
    page, api = open_page()
    assert page.text("#empty-model") == "scripted-1B"
    page.find("[data-prompt]").click()
    page.wait(lambda: page.replies == ["Hello from the script."], "the answer")
    assert api.bodies[0]["messages"][0]["content"] == page.find("[data-prompt]").get_attribute("data-prompt")


def test_a_reply_cut_at_the_limit_says_so(open_page: Open) -> None:
    page, _ = open_page(Reply(finish="length"))
    page.say("Long")
    page.wait_idle()
    assert "token limit" in page.text(".reply .note")


def test_copy_takes_the_reply_as_the_model_wrote_it(open_page: Open) -> None:
    page, _ = open_page(Reply(pieces=("**bold** and\n\n```py\nx = 1\n```",)))
    page.say("Code")
    page.wait_idle()
    page.driver.execute_cdp_cmd(
        "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    )
    page.find(".reply > .actions .action").click()
    page.wait(lambda: "Copied" in page.text(".reply > .actions"), "the word that it is copied")
    assert page.script("return navigator.clipboard.readText()") == "**bold** and\n\n```py\nx = 1\n```"
    page.find(".code-head .action").click()
    page.wait(lambda: "Copied" in page.text(".code-head"), "the word that it is copied")
    assert page.script("return navigator.clipboard.readText()") == "x = 1"


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_view_follows_a_reply_only_for_who_is_at_its_end(open_page: Open, size: tuple[int, int]) -> None:
    page, _ = open_page(
        Reply(pieces=tuple(f"line {i}\n\n" for i in range(60))),
        Reply(pieces=tuple(f"more {i}\n\n" for i in range(60)), pause=0.02),
        size=size,
    )
    page.say("Long")
    page.wait_idle()
    at_end = "const box = document.querySelector('#scroll'); return box.scrollHeight - box.scrollTop - box.clientHeight"
    page.wait(lambda: page.driver.execute_script(at_end) <= 8, "the end in view")
    assert not page.shows("#jump")
    page.say("Longer")
    page.wait(lambda: len(page.replies) == 2 and "more 5" in page.replies[1], "the second reply's beginning")
    page.driver.execute_script("document.querySelector('#scroll').scrollTop = 50")
    page.wait_idle()
    assert page.driver.execute_script("return document.querySelector('#scroll').scrollTop") == 50
    page.find("#jump").click()
    page.wait(lambda: page.driver.execute_script(at_end) <= 8, "the end in view again")
    page.wait(lambda: not page.shows("#jump"), "the button gone")


def test_text_selected_while_a_reply_streams_in_stays_selected(open_page: Open) -> None:
    page, api = open_page(Reply(pieces=("First paragraph.\n\n", "Second"), hold=True))
    page.say("Go")
    page.wait(lambda: page.replies and "Second" in page.replies[0], "the reply's beginning")
    selected = "return getSelection().toString()"
    page.driver.execute_script(
        "document.activeElement.blur();getSelection().selectAllChildren(document.querySelector('.reply .text > p'))"
    )
    page.on_server(api.release)
    page.wait_idle()
    assert page.driver.execute_script(selected) == "First paragraph."


def test_a_screen_reader_hears_whole_sentences(open_page: Open) -> None:
    page, api = open_page(Reply(pieces=("One is", " here. Two", " is"), hold=True))
    heard = "return [...document.querySelectorAll('#announcer p')].map((p) => p.textContent)"
    page.say("Speak")
    page.wait(lambda: page.driver.execute_script(heard) == ["One is here."], "the first sentence alone")
    assert page.find("#announcer").get_attribute("aria-live") == "polite"
    assert page.find(".reply").get_attribute("aria-busy") == "true"
    page.on_server(api.release)
    page.wait(lambda: page.driver.execute_script(heard) == ["One is here.", "Two is"], "the rest at the end")
