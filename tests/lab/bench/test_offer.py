"""Requests offered to a server whose delays are known."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from penstock._native import load_endings
from penstock.core.errors import InvalidRequestError, NotFoundError
from penstock.lab.bench.endpoint import Endpoint
from penstock.lab.bench.observations import Ending
from penstock.lab.bench.offer import Manner, offer
from penstock.lab.bench.planned import Planned, Turn
from penstock.lab.bench.scrape import Scraper
from penstock.lab.bench.stub import Stub

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from penstock.lab.bench.observations import Observations

DATA = Path(__file__).parent / "data"
JSON = b'{"choices":[{"text":"ok","finish_reason":"stop"}]}'
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(JSON), JSON)


def endings(seen: Observations) -> dict[str, int]:
    names, counts = np.unique(seen.ending, return_counts=True)
    return {Ending(name).name: int(count) for name, count in zip(names, counts, strict=True)}


def at(times: Sequence[float], tokens: int = 4) -> list[Planned]:
    return [Planned("a b c", tokens, due=due) for due in times]


def overlap(seen: Observations) -> int:
    """Requests on their way at once, at most."""
    steps = sorted([(t, 1) for t in seen.sent.tolist()] + [(t, -1) for t in seen.end.tolist()])
    return int(np.max(np.cumsum([step for _, step in steps])))


@contextmanager
def scripted(*answers: bytes, tls: bool = False, host: str = "127.0.0.1") -> Iterator[tuple[str, list[bytes]]]:
    """A server that reads a request and answers what its script says, whatever was asked, then closes; once the script
    is used up it answers no more. Its URL, and the requests it got."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.bind((host, 0))
    listener.listen()
    got: list[bytes] = []

    def serve() -> None:
        for answer in answers:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # the test is over
            with connection:
                if tls:
                    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                    context.load_cert_chain(DATA / "server.pem")
                    try:
                        connection = context.wrap_socket(connection, server_side=True)
                    except OSError:
                        continue  # the client doesn't trust it
                with connection:
                    got.append(connection.recv(1 << 16))
                    connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        shown = f"[{host}]" if ":" in host else host
        yield f"http{'s' if tls else ''}://{shown}:{listener.getsockname()[1]}", got
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
        assert not thread.is_alive()


def endpoint_of(url: str, **other: object) -> Endpoint:
    """Without asking for its models."""
    scheme, _, rest = url.partition("://")
    host, _, port = rest.rpartition(":")
    tls_name = "localhost" if scheme == "https" else None
    return Endpoint(
        base=url, api="completions", model="m", ip=host.strip("[]"), port=int(port), tls_name=tls_name, **other
    )  # type: ignore[arg-type]


def test_given_the_native_endings_when_compared_then_they_are_these() -> None:
    assert [ending.name.lower() for ending in Ending] == load_endings()


def test_given_a_closed_loop_when_offered_then_exactly_so_many_are_in_flight() -> None:
    with Stub(ttft=0.02, itl=0.002) as stub:
        seen = offer(Endpoint.open(stub.url), [Planned("a b", 5)] * 60, Manner(slots=6))
        truth = {request.id: request for request in stub.truth()}
    assert endings(seen) == {"WHOLE": 60}
    assert overlap(seen) == 6
    # Each later one is due the moment one before it ended.
    ends = set(np.round(seen.end, 9).tolist())
    due = np.sort(seen.due)
    assert (due[:6] == 0).all()
    assert {round(t, 9) for t in due[6:].tolist()} <= ends
    assert sum(request.tokens for request in truth.values()) == int(seen.completion_tokens.sum()) == 300


def test_given_due_times_when_offered_then_each_is_sent_then_and_counted_from_then() -> None:
    times = np.cumsum(np.random.default_rng(3).exponential(0.004, 150)).tolist()
    with Stub(ttft=0.03, itl=0.001) as stub:
        seen = offer(Endpoint.open(stub.url), at(times), Manner())
        first = {truth.id: truth for truth in stub.truth()}
    order = np.argsort(seen.id)
    assert np.abs(seen.due[order] - times).max() < 1e-6
    assert (seen.sent >= seen.due).all()
    assert np.median(seen.sent - seen.due) < 0.005
    start = int(seen.meta["started_monotonic"] * 1e9)
    for number, text in zip(seen.id.tolist(), seen.first_text.tolist(), strict=True):
        written = (first[f"bench-{number}"].first - start) / 1e9
        assert written - 1e-4 <= text  # nothing is seen before it was written


def test_given_a_stall_when_load_is_open_then_the_requests_due_meanwhile_carry_it() -> None:
    with Stub(ttft=0.005, itl=0.001, stalls=["0.3s:0.5s"]) as stub:
        seen = offer(Endpoint.open(stub.url), at(np.arange(0, 1.2, 0.01).tolist(), 1), Manner())
    ttft = seen.first_text - seen.due
    stalled = (seen.due > 0.35) & (seen.due < 0.75)
    assert stalled.sum() >= 35
    # Due while it stands still: each waits for the rest of the stall, which ends near 0.8 s.
    assert (ttft[stalled] >= 0.8 - seen.due[stalled] - 0.01).all()
    assert np.median(ttft[seen.due > 1.0]) < 0.1


def test_given_fewer_slots_than_open_load_when_offered_then_waiting_is_latency_and_not_the_clients_lateness() -> None:
    with Stub(ttft=0.1, itl=0.001) as stub:
        seen = offer(Endpoint.open(stub.url), at([0.0] * 8, 1), Manner(slots=2))
    assert overlap(seen) == 2
    assert (seen.first_text - seen.due).max() > 0.35
    assert seen.meta["client"]["schedule_delay_max"] < 0.1


def test_given_a_conversation_when_offered_then_turns_follow_answers_and_carry_them() -> None:
    turns = (Turn("more please", 3, think=0.1), Turn("again", 2))
    with Stub(ttft=0.01, itl=0.001) as stub:
        seen = offer(Endpoint.open(stub.url, api="chat"), [Planned("a b", 4, turns=turns)] * 3, Manner(slots=3))
    assert endings(seen) == {"WHOLE": 9}
    assert sorted(seen.completion_tokens.tolist()) == [2, 2, 2, 3, 3, 3, 4, 4, 4]
    # The stub counts words: the first prompt, then with the answer (4 words) and the turn (2), and so on.
    assert sorted(seen.prompt_tokens.tolist()) == [2, 2, 2, 8, 8, 8, 12, 12, 12]
    second = seen.due[seen.completion_tokens == 3]
    assert (np.sort(second) - np.sort(seen.end[seen.completion_tokens == 4]) >= 0.1 - 1e-6).all()


@pytest.mark.parametrize("slots", [4, None])
def test_given_a_duration_when_it_is_over_then_no_more_is_sent_and_what_is_under_way_ends(slots: int | None) -> None:
    endless = (Planned("a", 5, due=None if slots else i * 0.01) for i in range(10**9))
    with Stub(ttft=0.05, itl=0.01) as stub:
        seen = offer(Endpoint.open(stub.url), endless, Manner(slots=slots, duration=0.5))
    assert endings(seen).keys() == {"WHOLE"}
    assert 0.4 < seen.sent.max() < 0.6
    assert seen.end.max() > seen.sent.max()
    assert seen.meta["stopped"]


def test_given_ctrl_c_when_running_then_what_was_seen_is_kept_and_the_rest_is_cut() -> None:
    def interrupt(progress: object) -> None:
        if progress.finished >= 5:  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGINT)

    with Stub(ttft=0.02, itl=0.001, faults=["0.3:hang"], seed=1) as stub:
        seen = offer(Endpoint.open(stub.url), at([i * 0.01 for i in range(500)]), Manner(), on_progress=interrupt)
    counts = endings(seen)
    assert seen.meta["cut"]
    assert counts["WHOLE"] >= 5
    assert counts["CUT"] >= 1
    assert len(seen) < 500


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("fault", "ending"),
    [
        ("status=429", Ending.STATUS),
        ("cut", Ending.TRUNCATED),
        ("malformed", Ending.MALFORMED),
        ("in_stream", Ending.IN_STREAM),
        ("hang", Ending.TIMEOUT),
    ],
)
def test_given_a_fault_when_offered_then_its_ending_is_told_and_others_are_whole(
    fault: str, ending: Ending, stream: bool
) -> None:
    with Stub(ttft=0.005, itl=0.001, faults=[f"0.5:{fault}"], seed=5) as stub:
        found = Endpoint.open(stub.url, stream=stream)
        seen = offer(found, at([i * 0.003 for i in range(30)]), Manner(timeout=0.4, keep_alive=False))
    if fault == "cut" and not stream:
        ending = Ending.BROKEN  # nothing of the answer had come
    counts = endings(seen)
    assert counts.keys() == {"WHOLE", ending.name}
    assert min(counts.values()) > 5
    wrong = seen.id[seen.ending == ending].tolist()
    assert sorted(seen.details) == sorted(wrong)
    if fault.startswith("status"):
        assert (seen.status[seen.ending == ending] == 429).all()


def test_given_no_listener_when_offered_then_it_ends_as_no_connection() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and doesn't listen
        seen = offer(endpoint_of(f"http://127.0.0.1:{unused.getsockname()[1]}"), at([0.0]), Manner())
    assert endings(seen) == {"CONNECT": 1}
    assert "refused" in seen.details[0]


def test_given_a_peer_that_never_reads_when_offered_then_the_request_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        large = [Planned("word " * 4_000_000, 1, due=0.0)]
        seen = offer(endpoint_of(f"http://127.0.0.1:{mute.getsockname()[1]}"), large, Manner(timeout=0.5))
    assert endings(seen) == {"TIMEOUT": 1}


@pytest.mark.parametrize(
    ("answer", "ending"),
    [
        (WHOLE, Ending.WHOLE),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE, Ending.WHOLE),
        (b"", Ending.BROKEN),
        (b"SMTP ready\r\n", Ending.MALFORMED),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000, Ending.MALFORMED),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" + JSON, Ending.TRUNCATED),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n<html></html>", Ending.MALFORMED),
        (b'HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {"choices":[]}\n\n', Ending.TRUNCATED),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: [DONE]\n\n", Ending.EMPTY),
    ],
)
def test_given_bytes_of_a_server_when_read_then_the_ending_says_what_they_are(answer: bytes, ending: Ending) -> None:
    with scripted(answer) as (url, _):
        seen = offer(endpoint_of(url), at([0.0]), Manner(timeout=5))
    assert endings(seen) == {ending.name: 1}


def test_given_a_server_that_closes_an_idle_connection_when_used_again_then_the_request_is_made_again() -> None:
    # It says the connection stays, and closes it: the second request finds that out or is told before.
    with scripted(WHOLE, WHOLE, WHOLE) as (url, got):
        seen = offer(endpoint_of(url), [Planned("a", 1)] * 3, Manner(slots=1, timeout=5))
    assert endings(seen) == {"WHOLE": 3}
    assert len(got) == 3


def test_given_a_refusal_before_the_request_is_whole_when_offered_then_the_refusal_is_told() -> None:
    refusal = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 4\r\nconnection: close\r\n\r\nlong"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(refusal)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 20):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        large = [Planned("word " * 4_000_000, 1, due=0.0)]
        seen = offer(endpoint_of(f"http://127.0.0.1:{listener.getsockname()[1]}"), large, Manner(timeout=5))
        thread.join(10)
    assert (endings(seen), seen.status.tolist()) == ({"STATUS": 1}, [413])


def test_given_a_certificate_of_ones_own_authority_when_that_is_trusted_then_it_is_whole() -> None:
    pem = (DATA / "authority.pem").read_bytes()
    with scripted(WHOLE, WHOLE, tls=True) as (url, _):
        seen = offer(endpoint_of(url, authorities=pem), at([0.0]), Manner(timeout=5))
        distrusted = offer(endpoint_of(url), at([0.0]), Manner(timeout=5))
    assert endings(seen) == {"WHOLE": 1}
    assert endings(distrusted) == {"TLS": 1}
    assert "UnknownIssuer" in distrusted.details[0]


def test_given_tls_when_opened_with_the_authority_then_models_are_found() -> None:
    models = b'{"data":[{"id":"m"}]}'
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (len(models), models)
    with scripted(b"", answer, tls=True) as (url, _):  # the first connection only tries whether it answers
        named = url.replace("127.0.0.1", "localhost")
        assert Endpoint.open(named, ca=DATA / "authority.pem").model == "m"


def test_given_tls_when_pages_beside_the_load_are_read_then_the_authority_is_trusted_there_too() -> None:
    page = b"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 1\n"
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (len(page), page)
    with scripted(answer, tls=True) as (url, _):
        named = url.replace("127.0.0.1", "localhost")
        endpoint = replace(endpoint_of(url, authorities=(DATA / "authority.pem").read_bytes()), base=named)
        scraper = Scraper.find(endpoint)
    assert scraper is not None
    assert scraper.engine == "vllm"


def test_given_a_file_that_holds_no_certificates_when_opened_then_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("nothing")
    with pytest.raises(InvalidRequestError, match="certificates in PEM"):
        Endpoint.open("https://localhost:1", ca=tmp_path / "x.pem")


def test_given_ipv6_when_offered_then_it_is_whole() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with Stub(ttft=0.001, host="::1") as stub:
        assert endings(offer(Endpoint.open(stub.url), at([0.0]), Manner())) == {"WHOLE": 1}


def test_given_localhost_when_only_one_of_its_addresses_answers_then_that_is_used() -> None:
    with Stub() as stub:
        assert Endpoint.open(f"http://localhost:{stub.port}").ip == "127.0.0.1"


def test_given_nothing_there_when_opened_then_it_says_so() -> None:
    with pytest.raises(NotFoundError, match="Is the server up"):
        Endpoint.open("http://127.0.0.1:9")


def test_given_a_thousand_at_once_when_offered_then_all_are_whole_on_a_thousand_connections() -> None:
    with Stub(ttft=0.5, itl=0.001) as stub:
        seen = offer(Endpoint.open(stub.url), at([0.0] * 1000, 2), Manner())
    assert endings(seen) == {"WHOLE": 1000}
    assert overlap(seen) == 1000


def test_given_times_of_one_request_when_seen_then_they_are_in_order() -> None:
    with Stub(ttft=0.01, itl=0.002) as stub:
        seen = offer(Endpoint.open(stub.url), at([0.0, 0.01, 0.02]), Manner())
    columns = (seen.due, seen.sent, seen.connected, seen.first_byte, seen.first_text, seen.last_text, seen.end)
    for before, after in pairwise(columns):
        assert (before <= after).all()


def test_given_a_client_that_gets_the_processor_when_it_waits_then_its_waiting_costs_little() -> None:
    began = time.process_time()
    with Stub(ttft=0.5, itl=0.001) as stub:
        offer(Endpoint.open(stub.url), at([0.0]), Manner())
    assert time.process_time() - began < 0.3
