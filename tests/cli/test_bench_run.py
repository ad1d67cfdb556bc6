"""`penstock bench run`, as a person and as a script sees it."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from penstock.core.record import Record
from penstock.lab import exits
from penstock.lab.bench.observations import Observations
from penstock.lab.bench.stub import Stub
from support.one_answer import answering, refusal, stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from starlette.responses import Response

MEASURED = (0, exits.INVALID)  # a machine that is busy with other tests may starve the client
SHORT = ("--requests", "6", "--concurrency", "2", "--input-tokens", "4", "--output-tokens", "5", "--repeats", "2")


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub(ttft=0.02, itl=0.005) as running:
        yield running


def test_a_run_shows_latencies_rates_and_what_the_server_counted(penstock: Callable[..., Any], stub: Stub) -> None:
    ran = penstock("bench", "run", stub.url, *SHORT, "--slo", "ttft:1s")
    assert ran.code in MEASURED, ran.err
    first, _, server = ran.out.rpartition("\n\n")
    rows, counted = (
        {cells[0]: cells[1:] for line in part.splitlines() if len(cells := line.split("\t")) > 1}
        for part in (first, server)
    )
    assert {"TTFT", "TPOT", "ITL", "chunk gap", "E2E", "output tokens/s", "requests/s", "goodput, requests/s"} <= set(
        rows
    )
    assert float(rows["TTFT"][0].removesuffix(" ms")) >= 20
    assert rows["requests"] == ["4", "4", "4"]  # the first round of each repeat warms up
    assert counted["requests"] == ["6", "6", "+0.0%"]
    assert counted["output tokens"] == ["30", "30", "+0.0%"]


def test_the_record_is_printed_and_kept_with_all_that_was_asked(
    penstock: Callable[..., Any], stub: Stub, alone: Path
) -> None:
    ran = penstock("bench", "run", stub.url, *SHORT, "--header", "x-secret: 1", "--json", "--out", "kept")
    assert ran.code in MEASURED, ran.err
    record = Record.from_json(ran.out)
    (path,) = (alone / "kept").glob("*.json")
    assert Record.load(path) == record
    record.verify_files(path.parent)
    assert "Time to first token" in path.with_suffix(".html").read_text(encoding="utf-8")
    assert [len(Observations.load(path.parent / file.path)) for file in record.files] == [6, 6]
    assert record.metric("ttft").n == 8  # without the first round of each repeat
    assert record.metric("server_finished").mean == 6
    assert record.subject.name == "vllm"  # whose metrics the stub exports
    assert record.workload.parameters["settings"]["requests"] == 6
    assert record.command[:4] == ("penstock", "bench", "run", stub.url)
    assert "x-secret: 1" not in path.read_text()


def test_a_file_gives_settings_and_flags_win(penstock: Callable[..., Any], stub: Stub, alone: Path) -> None:
    (alone / "b.toml").write_text(
        f'[bench]\nurl = "{stub.url}"\nrequests = 4\nconcurrency = 1\nrepeats = 3\noutput-tokens = 2\n'
        '[bench.body]\ntemperature = 0\n'
    )  # fmt: skip
    ran = penstock("bench", "run", "--config", "b.toml", "--repeats", "1", "--json")
    assert ran.code in MEASURED, ran.err
    asked = json.loads(ran.out)["workload"]["parameters"]
    assert (asked["repeats"], asked["count"], asked["settings"]["body"]) == (1, 4, {"temperature": 0})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[bench]\nconcurency = 3", "has no setting 'concurency'. Did you mean 'concurrency'?"),
        ("[server]\nport = 3", "has no table [bench]"),
        ("[bench", "is not valid TOML"),
        ("[bench]\nrate = 'fast'", "rate: must be a number above 0"),
    ],
)
def test_a_file_that_cant_be_used_is_named(penstock: Callable[..., Any], alone: Path, text: str, said: str) -> None:
    (alone / "b.toml").write_text(text)
    ran = penstock("bench", "run", "--config", "b.toml")
    assert ran.code == 9
    assert said in ran.err


def test_an_address_without_a_server_says_so(penstock: Callable[..., Any]) -> None:
    ran = penstock("bench", "run", "http://127.0.0.1:1")
    assert ran.code == 4
    assert "Is the server up?" in ran.err


def test_when_every_request_fails_the_kinds_are_named_and_the_code_is_its_own(penstock: Callable[..., Any]) -> None:
    calls = itertools.count()

    def once(_body: dict[str, Any]) -> Response:
        return stream("a") if next(calls) == 0 else refusal(500, "out of memory")

    with answering(once) as url:
        ran = penstock("bench", "run", url, *SHORT)
    assert ran.code == exits.FAILED
    assert "errors status 500\t4\t4\t4" in ran.out
    assert "out of memory" in ran.err


def started(stub: Stub, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "penstock.cli", "bench", "run", stub.url, "--output-tokens", "4", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(stub: Stub, requests: int) -> None:
    """Wait for the stub to have answered so many."""
    deadline = time.monotonic() + 60
    while len(stub.truth()) < requests:
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def test_an_interrupt_ends_a_run_with_what_was_measured() -> None:
    with (
        Stub(ttft=0.02, itl=0.005, slots=2) as stub,
        started(stub, "--duration", "60", "--concurrency", "4", "--json") as process,  # two always wait for a slot
    ):
        until(stub, 20)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == exits.CUT, err
    record = Record.from_json(out)
    assert "cut" in [flaw.kind for flaw in record.flaws]
    assert record.metric("ttft").n >= 10
    assert record.metric("errors").max == record.metric("errors_cut").max  # requests that were under way


def test_a_client_that_was_starved_makes_the_run_invalid(stub: Stub) -> None:
    with started(stub, "--duration", "2", "--repeats", "1", "--rate", "50") as process:
        until(stub, 20)
        process.send_signal(signal.SIGSTOP)
        threading.Event().wait(0.6)  # the fault itself
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == exits.INVALID, err
    assert "INVALID: The client" in err
    assert "TTFT" in out  # shown all the same


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--ray", "auto"), 9, "--ray is of several --workers"),
        (("--workers", "2", "--ray", "ray://there:1"), 2, "join it with `ray start --address=HOST:6379`"),
    ],
)
def test_workers_that_cant_be_are_refused(
    penstock: Callable[..., Any], stub: Stub, options: tuple[str, ...], code: int, said: str
) -> None:
    ran = penstock("bench", "run", stub.url, *SHORT, *options)
    assert ran.code == code
    assert said in ran.err
