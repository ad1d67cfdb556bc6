"""The stub: told what to do as people write it, and doing that."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.errors import InvalidRequestError
from penstock.lab.bench import behaviour
from penstock.lab.bench.behaviour import Distribution
from penstock.lab.bench.endpoint import Endpoint
from penstock.lab.bench.offer import Manner, offer
from penstock.lab.bench.planned import Planned
from penstock.lab.bench.stub import Stub


@pytest.mark.parametrize(
    ("text", "native", "mean"),
    [
        ("50ms", ("constant", 0.05, 0.0), 0.05),
        (0.5, ("constant", 0.5, 0.0), 0.5),
        ("uniform:10ms,90ms", ("uniform", 0.01, 0.09), 0.05),
        ("exponential:2s", ("exponential", 2.0, 0.0), 2.0),
        ("lognormal:50ms,1", ("lognormal", 0.05, 1.0), 0.05 * np.exp(0.5)),
        ("pareto:20ms,2", ("pareto", 0.02, 2.0), 0.04),
        ("pareto:20ms,1", ("pareto", 0.02, 1.0), np.inf),
    ],
)
def test_given_a_distribution_when_parsed_then_it_is_that_one(
    text: str | float, native: tuple[str, float, float], mean: float
) -> None:
    found = Distribution.parse(text, "ttft")
    assert found.native() == pytest.approx(native[:1] + native[1:])
    assert found.mean == pytest.approx(mean)


@given(st.text(alphabet="0123456789.,:=mspareto unifologc-", max_size=20))
def test_given_any_text_when_parsed_then_it_is_read_or_refused(text: str) -> None:
    for parse in (lambda t: Distribution.parse(t, "ttft"), behaviour.stall, behaviour.fault):
        with contextlib.suppress(InvalidRequestError):  # and nothing else
            parse(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ttft": "50 parsecs"}, {"ttft": "normal:1,2"}, {"itl": "uniform:2s,1s"}, {"itl": "pareto:1ms,0"},
        {"ttft": -1.0}, {"tokens": "lognormal:10"}, {"slots": 0}, {"tokens_per_chunk": 0}, {"stalls": ["10s"]},
        {"faults": ["2:cut"]}, {"faults": ["0.1:explode"]}, {"faults": ["0.1:status=200"]},
        {"faults": ["0.1:cut=3"]}, {"faults": ["0.6:cut", "0.6:hang"]}, {"host": "nowhere"},
    ],
)  # fmt: skip
def test_given_nonsense_when_started_then_it_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError):
        Stub(**wrong)  # type: ignore[arg-type]


def test_given_a_taken_port_when_started_then_it_says_so() -> None:
    with Stub() as stub, pytest.raises(InvalidRequestError, match="can't listen"):
        Stub(port=stub.port)


def test_given_delays_when_asked_then_every_request_has_them() -> None:
    with Stub(ttft=0.03, itl=0.004, tokens_per_chunk=2, slots=3) as stub:
        seen = offer(Endpoint.open(stub.url), [Planned("a b c", 9)] * 12, Manner(slots=6))
        truth = stub.truth()
        page = stub.metrics()
        assert stub.capacity(9) == pytest.approx(3 / (0.03 + 4 * 0.004))
    assert (seen.piece_counts == 5).all()
    for request in truth:
        assert request.first - request.started >= 30e6
        assert request.last - request.first >= 16e6 - 4e6  # pieces are due by the start, so a late one isn't made up
        assert (request.tokens, request.whole) == (9, True)
    running = sorted([(t.started, 1) for t in truth] + [(t.last, -1) for t in truth])
    assert np.max(np.cumsum([step for _, step in running])) <= 3
    assert "vllm:generation_tokens_total 108" in page


def test_given_a_seed_when_asked_twice_then_the_same_becomes_of_each_request() -> None:
    def fates() -> list[tuple[int, int]]:
        with Stub(ttft="uniform:1ms,9ms", itl=0.001, tokens="lognormal:5,0.7", seed=4) as stub:
            seen = offer(Endpoint.open(stub.url), [Planned("a", 20)] * 10, Manner(slots=1))
        order = np.argsort(seen.id)
        return list(zip(seen.completion_tokens[order].tolist(), seen.finish[order].tolist(), strict=True))

    assert fates() == fates()
    assert len({tokens for tokens, _ in fates()}) > 3


def test_given_many_requests_when_the_truth_is_asked_for_then_all_of_it_comes() -> None:
    with Stub(ttft=0.0, itl=0.0) as stub:
        offer(Endpoint.open(stub.url), [Planned("a", 1)] * 3000, Manner(slots=50))
        assert len(stub.truth()) == 3000


def test_given_everyone_waits_for_one_slot_when_all_are_refused_then_all_are_told() -> None:
    with Stub(slots=1, faults=["1:status=500"]) as stub:
        seen = offer(Endpoint.open(stub.url), [Planned("a", 1, due=0.0)] * 2000, Manner())
    assert (seen.status == 500).all()


def test_given_the_command_when_interrupted_then_it_has_served_and_ends_well() -> None:
    command = [sys.executable, "-m", "penstock.cli", "bench", "stub", "--port", "0", "--ttft", "1ms", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        url = json.loads(child.stdout.readline())["url"]
        with urllib.request.urlopen(url + "/v1/models", timeout=10) as answer:
            assert json.load(answer)["data"][0]["id"] == "stub"
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 0


def test_given_an_option_that_makes_no_sense_when_started_then_it_exits_with_what_to_write() -> None:
    command = [sys.executable, "-m", "penstock.cli", "bench", "stub", "--fault", "0.1:explode"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert "0.01:cut" in done.stderr
