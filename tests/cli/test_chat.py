"""`penstock chat`: in a pipe, with --message, and on a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from support.live_server import Live, serve
from support.scripted_api import Reply, ScriptedApi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest


def test_a_message_is_answered_and_the_command_leaves(penstock: Callable[..., Any], echo_model: Path) -> None:
    ran = penstock("chat", echo_model, "-m", "hello", "--temperature", "0")
    assert ran.code == 0
    assert ran.out == "user\nhello\nassistant\n\n"


def test_several_messages_are_one_conversation(penstock: Callable[..., Any], echo_model: Path) -> None:
    flags = ("--temperature", "0", "--system", "Be brief.", "--json")
    ran = penstock("chat", echo_model, "-m", "one", "-m", "two", *flags)
    first, second = (json.loads(line) for line in ran.out.splitlines())
    assert first["answer"] == "system\nBe brief.\nuser\none\nassistant\n"
    assert second["answer"].startswith(f"{first['answer'].removesuffix('assistant' + chr(10))}")
    assert "two" in second["answer"]
    assert (first["message"], first["finish_reason"], first["model"]) == ("one", "stop", str(echo_model))
    assert first["completion_tokens"] > 0
    assert first["ttft"] <= first["seconds"]


def test_each_line_of_a_pipe_is_a_message(
    penstock: Callable[..., Any], echo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\ntwo\n"))
    ran = penstock("chat", echo_model, "--temperature", "0", "--json")
    assert [json.loads(line)["message"] for line in ran.out.splitlines()] == ["one", "two"]


def test_a_server_is_talked_to_by_its_address(penstock: Callable[..., Any]) -> None:
    api = ScriptedApi(Reply(pieces=("Hi", " there")))
    with serve(api) as live:
        ran = penstock("chat", "--url", live.url, "-m", "hello", "--max-tokens", "5", "--json")
    told = json.loads(ran.out)
    assert (told["answer"], told["model"], told["prompt_tokens"]) == ("Hi there", "scripted-1B", 36)
    assert api.bodies[0]["max_tokens"] == 5


def test_a_servers_key_may_come_from_the_environment(
    penstock: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    api = ScriptedApi(Reply(pieces=("in",)))
    api.key = "secret"
    with serve(api) as live:
        monkeypatch.setenv("PENSTOCK_API_KEY", "secret")
        assert penstock("chat", "--url", live.url, "-m", "x").out == "in\n"


# The command, once the pseudo-terminal is the one whose Ctrl-C reaches it.
ON_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from penstock.cli.main import main
sys.exit(main())
"""


class Terminal:
    """The command on a pseudo-terminal."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self._descriptor = descriptor
        self.seen = ""

    def type(self, text: str) -> None:
        if text:
            os.write(self._descriptor, text.encode())

    def expect(self, words: str, *, pressing: str = "") -> str:
        """Read until `words` appear; returns what came up to their end.

        A key in `pressing` is pressed each second meanwhile: Python's line editor sleeps through a signal that
        comes in the microseconds between its last look and its wait.
        """
        deadline = time.monotonic() + 30
        self.type(pressing)
        while words not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"waited for {words!r}, saw {self.seen!r}"
            ready, _, _ = select.select([self._descriptor], [], [], min(left, 1))
            if not ready:
                self.type(pressing)
                continue
            self.seen += os.read(self._descriptor, 4096).decode(errors="replace")
        head, _, self.seen = self.seen.partition(words)
        return head + words


@contextmanager
def terminal(live: Live) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", ON_TERMINAL, "chat", "--url", live.url]
    environment = {**os.environ, "TERM": "dumb"}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    try:
        screen = Terminal(process, ours)
        screen.expect("> ")
        yield screen
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_on_a_terminal_answers_stream_with_what_they_took(tmp_path: Path) -> None:
    api = ScriptedApi(Reply(pieces=("All ", "is ", "well.")))
    with serve(api) as live, terminal(live) as screen:
        screen.type("hello\n")
        answer = screen.expect("cached]")
        assert "All is well." in answer
        assert re.search(r"\[5 tokens, [\d.]+ tok/s, first after \d+ ms, prompt 36 tokens, 32 of them", answer)
        screen.type("/exit\n")
        assert screen.process.wait(10) == 0


def test_the_commands_of_the_conversation_work(tmp_path: Path) -> None:
    api = ScriptedApi(Reply(pieces=("ok",)))
    with serve(api) as live, terminal(live) as screen:
        screen.type("/help\n")
        assert "/set NAME VALUE" in screen.expect("/exit")
        screen.type("/set temperature 0.25\n")
        screen.expect("temperature = 0.25")
        screen.type("/set temprature 1\n")
        screen.expect("Did you mean 'temperature'?")
        screen.type("/sistem x\n")
        screen.expect("Did you mean '/system'?")
        screen.type("/system Be brief.\n")
        screen.expect("set.")
        screen.type("one\n")
        screen.expect("cached]")
        screen.type("two\n")
        screen.expect("cached]")
        screen.type("/reset\n")
        screen.expect("Forgotten.")
        screen.type("three\n")
        screen.expect("cached]")
        screen.type("/stats\n")
        screen.expect("cached]")
        screen.expect("> ")
        screen.type("\x04")
        assert screen.process.wait(10) == 0
    assert [[message["content"] for message in body["messages"]] for body in api.bodies] == [
        ["Be brief.", "one"],
        ["Be brief.", "one", "ok", "two"],
        ["Be brief.", "three"],
    ]
    assert api.bodies[0]["temperature"] == 0.25


def test_ctrl_c_stops_the_answer_and_not_the_conversation(tmp_path: Path) -> None:
    api = ScriptedApi(Reply(pieces=("Half an",), hold=True), Reply(pieces=("Whole.",)))
    with serve(api) as live, terminal(live) as screen:
        screen.type("hello\n")
        screen.expect("Half an")
        screen.type("\x03")
        screen.expect("(stopped)")
        assert api.client_left.wait(10)
        screen.type("again\n")
        screen.expect("Whole.")
        screen.expect("> ")
        screen.expect("/exit leaves", pressing="\x03")
        screen.expect("> ")
        screen.type("/exit\n")
        assert screen.process.wait(10) == 0
    assert [message["content"] for message in api.bodies[1]["messages"]] == ["hello", "Half an", "again"]


def test_an_answer_cannot_command_the_terminal(tmp_path: Path) -> None:
    api = ScriptedApi(Reply(pieces=("\x1b[2Jgone\x07\u009b1m", "\tkept\n")))
    with serve(api) as live, terminal(live) as screen:
        screen.type("hello\n")
        shown = screen.expect("cached]")
    assert "[2Jgone1m" in shown
    assert "kept" in shown
    assert "\x1b[2J" not in shown
    assert not {"\x07", "\u009b"} & set(shown)


def test_an_error_leaves_the_conversation_where_it_was(tmp_path: Path) -> None:
    api = ScriptedApi(Reply(status=503, error="Try again."), Reply(pieces=("ok",)))
    with serve(api) as live, terminal(live) as screen:
        screen.type("hello\n")
        screen.expect("Error: Try again.")
        screen.type("again\n")
        screen.expect("cached]")
    assert [message["content"] for message in api.bodies[1]["messages"]] == ["again"]
