"""Workloads as a server gets them."""

from __future__ import annotations

import json
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from penstock.core.errors import InvalidRequestError
from penstock.lab.bench.arrivals import ClosedLoop, schedule
from penstock.lab.bench.endpoint import Endpoint
from penstock.lab.bench.offer import Manner, offer
from penstock.lab.bench.stub import Stub
from penstock.lab.bench.workloads import make

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.models.tokenizer import Tokenizer


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub(ttft=0.001, itl=0.0005) as running:
        yield running


def _sent(endpoint: Endpoint, name: str, **options: Any) -> dict[str, Any]:
    planned = next(iter(make(name, options, 1).requests()))
    body: dict[str, Any] = json.loads(endpoint.encode(planned, 0).split(b"\r\n\r\n", 1)[1])
    return body


def test_given_conversations_then_each_turn_is_asked_after_the_answer_before(stub: Stub) -> None:
    workload = make("conversations", {"turns": 3, "think": 0.01, "output_tokens": 4}, 1)
    endpoint = Endpoint.open(stub.url, api="chat")
    seen = offer(endpoint, islice(workload.requests(), 5), Manner(slots=5))
    assert len(seen) == 15
    assert seen.wanted_output.tolist() == [4] * 15
    with pytest.raises(InvalidRequestError, match="use the chat API"):
        offer(Endpoint.open(stub.url), islice(workload.requests(), 1), Manner())


def test_given_a_closed_loop_with_a_ramp_then_its_first_requests_go_out_over_it(stub: Stub) -> None:
    workload, arrivals = make("synthetic", {"input_tokens": 4, "output_tokens": 2}, 1), ClosedLoop(4, ramp=0.4)
    requests = schedule(workload.requests(), arrivals, 1, 40)
    seen = offer(Endpoint.open(stub.url), requests, Manner(slots=4))
    assert len(seen) == 40
    due = np.sort(seen.due)
    assert due[0] == pytest.approx(0, abs=0.05)
    # The first stream alone until the second's turn comes, and so on: no burst of four.
    first_four = [seen.due[seen.id == number][0] for number in range(4)]
    assert first_four == pytest.approx([0, 0.1, 0.2, 0.3], abs=1e-6)


def test_given_a_trace_then_requests_are_sent_at_its_times(stub: Stub, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = "".join(f"2024-05-10 00:00:0{n // 10}.{n % 10}00000+00:00,5,3\n" for n in range(20))
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows, encoding="utf-8")
    workload = make("azure", {"path": trace, "from": 0.5, "to": 1.5, "speed": 5}, 1)
    seen = offer(Endpoint.open(stub.url), workload.requests(), Manner())
    assert np.sort(seen.due) == pytest.approx([n * 0.1 / 5 for n in range(10)], abs=1e-6)


def test_given_workloads_then_their_bodies_ask_for_what_they_mean(stub: Stub) -> None:
    completions, chat = Endpoint.open(stub.url), Endpoint.open(stub.url, api="chat")
    body = _sent(completions, "synthetic", input_tokens=6, output_tokens=9)
    assert len(body["prompt"].split()) == 6
    assert (body["max_tokens"], body["ignore_eos"]) == (9, True)
    body = _sent(chat, "json-schema", output_tokens=9)
    assert body["response_format"]["type"] == "json_schema"
    assert "ignore_eos" not in body
    assert [message["role"] for message in _sent(chat, "conversations")["messages"]] == ["system", "user"]


def test_given_a_core_then_workloads_are_made_far_faster_than_they_are_sent(tokenizer: Tokenizer, stub: Stub) -> None:
    """1,000 requests/s of 500 tokens must be a small part of one core; about a twelfth was measured."""
    endpoint = Endpoint.open(stub.url)
    requests = make("synthetic", {"input_tokens": 500}, 1, tokenizer).requests()
    next(iter(requests))
    began = time.process_time()
    for number, planned in enumerate(islice(requests, 500)):
        endpoint.encode(planned, number)
    assert time.process_time() - began < 0.25
