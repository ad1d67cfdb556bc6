"""One worker by itself, without Ray: its methods called from several threads, as Ray does."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from penstock.core.errors import NotFoundError
from penstock.lab.bench.endpoint import Endpoint
from penstock.lab.bench.offer import Manner
from penstock.lab.bench.planned import Planned
from penstock.lab.bench.spread.worker import Inbox, Worker
from penstock.lab.bench.stub import Stub

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_it_starts_when_told_and_its_ids_are_the_whole_run_s(threads: ThreadPoolExecutor) -> None:
    with Stub(ttft=0.001, itl=0.001) as stub:
        worker, endpoint = Worker(2, 3), Endpoint.open(stub.url)
        worker.prepare(endpoint, Manner(warm_up=1))
        over = threads.submit(worker.offer, endpoint, Manner(warm_up=1))
        assert worker.put([Planned("a", 2, due=number / 100) for number in range(5)])
        assert not worker.put([])
        assert worker.prepared() <= worker.now()
        start = time.monotonic_ns() + 50_000_000
        worker.start(start)
        brief = over.result(timeout=30)
        assert brief is not None
        assert (brief.requests, brief.whole, brief.meta["cut"]) == (5, 5, False)
        seen = worker.columns()
        assert sorted(seen.id.tolist()) == [2, 5, 8, 11, 14]
        assert set(seen.texts) == set(seen.id.tolist())
        assert min(each.received for each in stub.truth() if each.id == "bench-2") >= start
        assert worker.tally((0.0, 1.0, True), 1.0, None).totals.requests == 4
        assert worker.progress() is not None


def test_cut_before_its_start_it_sends_nothing(threads: ThreadPoolExecutor) -> None:
    with Stub() as stub:
        worker, endpoint = Worker(0, 1), Endpoint.open(stub.url)
        for chunks in ([], [[Planned("a", 2)], []]):  # while it waits for requests, and while it waits for the start
            worker.prepare(endpoint, Manner())
            over = threads.submit(worker.offer, endpoint, Manner())
            for chunk in chunks:
                worker.put(chunk)
            if chunks:
                worker.prepared()
            worker.cut()
            assert over.result(timeout=30) is None
            assert not worker.put([Planned("a", 2)])
        assert not stub.truth()


def test_cut_while_it_runs_it_tells_what_it_saw(threads: ThreadPoolExecutor) -> None:
    with Stub(ttft=0.001, itl=0.001) as stub:
        worker, endpoint = Worker(0, 1), Endpoint.open(stub.url)
        worker.prepare(endpoint, Manner(slots=1))
        over = threads.submit(worker.offer, endpoint, Manner(slots=1))
        worker.put([Planned("a", 2)] * 5000)
        worker.prepared()
        worker.start(time.monotonic_ns())
        deadline = time.monotonic() + 30
        while (progress := worker.progress()) is None or progress.finished < 3:
            assert time.monotonic() < deadline
        worker.cut()
        brief = over.result(timeout=30)
        assert brief is not None
        assert brief.meta["cut"]
        assert brief.whole >= 3


def test_a_server_that_it_cant_reach_is_named() -> None:
    with Stub() as stub:
        endpoint = Endpoint.open(stub.url)
    with pytest.raises(NotFoundError, match=r"Worker 1 on .* can't reach 127.0.0.1"):
        Worker(0, 2).prepare(endpoint, Manner())


def test_an_inbox_waits_at_first_and_says_later_that_nothing_is_there(threads: ThreadPoolExecutor) -> None:
    inbox, one = Inbox(ahead=3), Planned("a", 1)
    requests = iter(inbox)
    first = threads.submit(lambda: [next(requests) for _ in range(5)])
    assert inbox.put([one, one])
    assert inbox.put([one, one])
    assert first.result(timeout=30) == [one, one, one, one, None]
    assert next(requests) is None
    assert inbox.put([one])
    assert not inbox.put([])
    assert [next(requests), next(requests, "over")] == [one, "over"]


def test_a_full_inbox_makes_whoever_puts_wait_until_it_is_closed(threads: ThreadPoolExecutor) -> None:
    inbox = Inbox(ahead=0)
    puts = [threads.submit(inbox.put, [Planned("a", 1)]) for _ in range(9)]
    assert [put.result(timeout=30) for put in puts[:8]] == [True] * 8
    assert not puts[8].done()
    inbox.close()
    assert puts[8].result(timeout=30) is False
