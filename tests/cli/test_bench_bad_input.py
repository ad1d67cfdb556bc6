"""What `penstock bench run`, `sweep` and `compare` make of servers, folders and interruptions that are in their way."""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse

from penstock.cli.bench_watch import finished_first
from penstock.core.record import Record
from penstock.lab import exits
from penstock.lab.bench.stub import Stub
from support.live_server import serve
from support.one_answer import answering, refusal, stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from starlette.responses import Response

LITTLE = ("--input-tokens", "4", "--output-tokens", "2", "--quiet")
COMMANDS = ("run", "sweep", "compare")


def measuring(command: str, url: str, *options: str) -> list[str]:
    """The command line; a comparison has a server that answers beside the one at `url`."""
    urls = [url] if command != "compare" else [f"a={url}", f"b={url}"]
    return ["bench", command, *urls, *LITTLE, *options]


def unused() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize("command", COMMANDS)
def test_an_address_that_leads_nowhere_is_refused_by_every_command(penstock: Callable[..., Any], command: str) -> None:
    for url, code, said in (
        (unused(), 4, "Is the server up?"),
        ("http://no-such-host.invalid:1", 4, "can't be found"),
        ("ftp://127.0.0.1", 2, "is no http or https URL"),
    ):
        ran = penstock(*measuring(command, url, *(("--api-key", "k") if command != "compare" else ())))
        assert ran.code == code, ran.err
        assert said in ran.err
        assert ran.out == ""


@contextmanager
def listing(answer: Callable[[], Response]) -> Iterator[str]:
    """The URL of a server that gives `answer` for its models."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    with serve(Starlette(routes=[Route("/v1/models", lambda _request: answer())])) as live:
        yield live.url


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (lambda: HTMLResponse("<html></html>"), 2, "is no OpenAI-compatible server"),
        (lambda: JSONResponse([1, 2]), 2, "is no OpenAI-compatible server"),
        (lambda: RedirectResponse("https://elsewhere/"), 2, "sends one on to https://elsewhere/"),
        (lambda: refusal(401, "no"), 3, "asks for a key"),
        (lambda: refusal(503, "loading"), 5, "may still be starting"),
        (lambda: JSONResponse({"data": []}), 4, "serves no model"),
    ],
)
def test_what_lists_no_models_is_named_for_what_it_is(
    penstock: Callable[..., Any], answer: Callable[[], Response], code: int, said: str
) -> None:
    with listing(answer) as url:
        for command in COMMANDS:
            ran = penstock(*measuring(command, url))
            assert (ran.code, said in ran.err) == (code, True), ran.err


def test_what_speaks_no_http_is_named(penstock: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def greet() -> None:
            for _ in range(2):  # one connection to see that something listens, one to ask
                connection, _address = other.accept()
                with connection:
                    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        ran = penstock(*measuring("run", f"http://127.0.0.1:{other.getsockname()[1]}"))
        thread.join()
    assert ran.code == 2
    assert "doesn't speak HTTP as a server should" in ran.err


def test_a_key_that_is_refused_is_not_asked_for_again(penstock: Callable[..., Any]) -> None:
    with listing(lambda: refusal(401, "no")) as url:
        assert "refuses the key (status 401)" in penstock(*measuring("run", url, "--api-key", "wrong")).err


def test_events_under_another_content_type_and_pages_are_told_apart(penstock: Callable[..., Any]) -> None:
    def mislabelled(_body: dict[str, Any]) -> Response:
        answer = stream("a")
        answer.headers["content-type"] = "text/plain"
        return answer

    for answer, said in ((mislabelled, "content type isn't"), (lambda _: HTMLResponse("<html></html>"), "no API")):
        with answering(answer) as url:
            ran = penstock(*measuring("run", url))
        assert ran.code == 2
        assert said in ran.err


def test_more_tokens_than_were_allowed_are_doubted(penstock: Callable[..., Any]) -> None:
    def boasting(_body: dict[str, Any]) -> Response:
        events = ({"choices": [{"index": 0, "text": "a", "finish_reason": "length"}]},
                  {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 10**14}})  # fmt: skip
        return type(stream())("".join(f"data: {json.dumps(each)}\n\n" for each in events) + "data: [DONE]\n\n",
                              media_type="text/event-stream")  # fmt: skip

    with answering(boasting) as url:
        ran = penstock(*measuring("run", url, "--requests", "4", "--concurrency", "1", "--repeats", "1"))
    assert "more tokens in 3 of 3 answers than they were allowed" in ran.err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_cannot_be_written_is_found_out_before_anything_is_sent(
    penstock: Callable[..., Any], alone: Path, command: str
) -> None:
    (alone / "file").write_text("")
    with Stub() as stub:
        ran = penstock(*measuring(command, stub.url, "--out", str(alone / "file" / "x")))
        assert ran.code == 9
        assert "Nothing was measured" in ran.err
        assert stub.truth() == []


def test_a_disk_that_fills_up_loses_the_file_and_not_the_figures(alone: Path) -> None:
    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    with Stub(ttft=0.001, itl=0.001) as stub:
        words = measuring("run", stub.url, "--out", "kept", "--requests", "8", "--repeats", "1", "--json")
        ran = subprocess.run(
            [sys.executable, "-m", "penstock.cli", *words],
            capture_output=True, text=True, check=False, preexec_fn=little_room, cwd=alone,
        )  # fmt: skip
    assert ran.returncode == 10, ran.stderr
    assert "can't be written" in ran.stderr
    assert Record.from_json(ran.stdout).metric("requests").mean == 4  # and four that warmed up
    assert list((alone / "kept").iterdir()) == []


def test_a_comparison_of_which_nothing_is_left_has_its_page(penstock: Callable[..., Any], tmp_path: Path) -> None:
    def failing(body: dict[str, Any]) -> Response:
        return stream("a") if body["prompt"].startswith("Count from one") else refusal(500, "out of memory")

    with answering(failing) as url:
        ran = penstock(
            *measuring("compare", url, "--requests", "4", "--concurrency", "2", "--rounds", "2", "--out", str(tmp_path))
        )
    assert ran.code == exits.INVALID, ran.err
    assert "Nothing could be compared" in ran.out
    assert "no figures" in (tmp_path / "comparison.md").read_text()


@contextmanager
def interrupted(stub: Stub, requests: int) -> Iterator[None]:
    """Ctrl-C when the stub has answered so many."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            if len(stub.truth()) >= requests:
                os.kill(os.getpid(), signal.SIGINT)
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_keeps_what_was_measured_and_marks_it(
    penstock: Callable[..., Any], command: str, tmp_path: Path
) -> None:
    load = {
        "run": ("--requests", "5000", "--warm-up", "4"),
        "sweep": ("--axis", "concurrency", "--requests", "200"),
        "compare": ("--requests", "10", "--rounds", "200"),
    }[command]
    with Stub(ttft=0.002, itl=0.001) as stub, interrupted(stub, 150):
        ran = penstock(*measuring(command, stub.url, "--out", str(tmp_path), *load))
    assert ran.code == exits.CUT, ran.err
    assert ran.out
    assert "Traceback" not in ran.err
    kept = [Record.load(path) for path in tmp_path.glob("*.json") if path.name != "comparison.json"]
    assert kept
    if command == "compare":  # its runs may be whole, if it was cut between two of them
        assert json.loads((tmp_path / "comparison.json").read_text())["cut"]
    else:
        assert "cut" in [flaw.kind for record in kept for flaw in record.flaws]


def test_ctrl_c_in_the_probe_ends_it_in_silence(penstock: Callable[..., Any], tmp_path: Path) -> None:
    asked = threading.Event()

    def hang(_body: dict[str, Any]) -> Response:
        if not asked.is_set():
            os.kill(os.getpid(), signal.SIGINT)
        asked.set()
        return stream("a")

    with answering(hang) as url:
        ran = penstock(*measuring("run", url, "--out", str(tmp_path)))
    assert asked.is_set()
    assert ran.code == exits.CUT
    assert (ran.out, ran.err.strip(), list(tmp_path.glob("*.json"))) == ("", "", [])


def test_ctrl_c_while_results_are_written_waits_for_them_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    second = None

    def keep() -> None:
        nonlocal second
        with finished_first():
            signal.raise_signal(signal.SIGINT)
            second = signal.getsignal(signal.SIGINT)  # reached, so this was written

    with pytest.raises(KeyboardInterrupt):
        keep()
    assert second == signal.SIG_DFL  # a second one would have ended it there and then
    assert signal.getsignal(signal.SIGINT) == before


def test_a_wall_clock_that_jumps_is_told_and_moves_no_latency(
    penstock: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = itertools.count()
    # The wall clock is read when a run starts and when it is over: an hour is lost in between.
    jumping = SimpleNamespace(monotonic_ns=time.monotonic_ns, time=lambda: time.time() - 3600 * (next(calls) % 2))
    monkeypatch.setattr("penstock.lab.bench.offer.time", jumping)
    with Stub(ttft=0.01, itl=0.001) as stub:
        ran = penstock(*measuring("run", stub.url, "--requests", "8", "--repeats", "1", "--json"))
    assert ran.code == exits.INVALID
    record = Record.from_json(ran.out)
    assert any("The wall clock jumped by -3600" in flaw.reason for flaw in record.flaws)
    assert 0.01 <= record.metric("ttft").min <= record.metric("e2e").max < 60
