"""Several workers on a real Ray cluster of this machine, against a server with known delays."""

from __future__ import annotations

import os
import secrets
import signal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from penstock.core.errors import ConfigError, InvalidRequestError
from penstock.lab.bench.arrivals import schedule
from penstock.lab.bench.records import flaws_of, metrics_of, record_of, subject_of
from penstock.lab.bench.run import Measured, measure
from penstock.lab.bench.scrape import Scraper
from penstock.lab.bench.settings import BenchSettings
from penstock.lab.bench.setup import Setup, set_up
from penstock.lab.bench.spread.cluster import Member, workers
from penstock.lab.bench.stub import Stub

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.lab.bench.offer import Progress


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray on two processors, which the tests' own workers then find."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # Ray's many processes would compile all they import
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # or Ray writes one into the user's home
        handler = signal.getsignal(signal.SIGTERM)
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
                 object_store_memory=128 << 20)  # fmt: skip
        signal.signal(signal.SIGTERM, handler)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def members(cluster: None) -> Iterator[list[Member]]:
    with workers(2, None) as found:
        yield found


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub(ttft=0.02, itl=0.002) as running:
        yield running


def quick(stub: Stub, **settings: Any) -> Setup:
    return set_up(BenchSettings.read(None, url=stub.url, **{"input_tokens": "4", "output_tokens": "4", **settings}))


def measured(setup: Setup, members: list[Member], *, raw: bool | None = None, **more: Any) -> Measured:
    from penstock.lab.bench.spread.ray_workers import Spread

    return measure(
        setup.endpoint, setup.workload, setup.arrivals, setup.manner, count=setup.count, repeats=setup.repeats,
        slo=setup.slo, offering=Spread(members, slo=setup.slo, raw=raw), **more,
    )  # fmt: skip


def test_workers_offer_exactly_the_plan_and_no_request_twice(stub: Stub, members: list[Member]) -> None:
    setup = quick(stub, rate=200, requests=60, repeats=1)
    (run,) = measured(setup, members).runs
    planned = [each.due for each in schedule(setup.workload.requests(), setup.arrivals, setup.workload.seed, 60)]
    np.testing.assert_allclose(np.sort(run.due), planned, atol=1e-6)
    np.testing.assert_array_equal(np.argsort(run.due, kind="stable"), np.argsort(run.id))  # ids are the plan's numbers
    truth = sorted(stub.truth(), key=lambda each: each.received)[-60:]  # without the probe
    assert sorted(str(each.id) for each in truth) == sorted(f"bench-{number}" for number in range(60))
    arrived = {str(each.id): each.received for each in truth}
    late = np.array([arrived[f"bench-{number}"] / 1e9 for number in run.id]) - run.due - run.meta["started_monotonic"]
    assert np.median(late) < 0.02  # one start for both: the stub is on this machine, and its clock the same
    told = run.meta["spread"]["workers"]
    assert [worker["requests"] for worker in told] == [30, 30]
    assert all(abs(worker["clock_ahead"]) <= worker["clock_uncertainty"] for worker in told)


def test_a_closed_loop_keeps_its_concurrency_and_the_server_agrees(stub: Stub, members: list[Member]) -> None:
    setup = quick(stub, concurrency=5, duration=0.5, repeats=1)
    scraper = Scraper.find(setup.endpoint, None, None)
    told: list[Progress] = []
    found = measured(setup, members, scraper=scraper, on_progress=lambda _repeat, progress: told.append(progress))
    (run,) = found.runs
    moments = np.arange(0.05, 0.45, 0.01)
    under_way = [(run.sent <= at).sum() - (run.end <= at).sum() for at in moments]
    assert max(under_way) <= 5
    assert np.median(under_way) == 5
    assert run.meta["server"]["increases"]["finished"] == len(run) == told[-1].finished
    assert run.meta["stopped"]


def test_without_columns_a_record_has_the_same_figures_and_says_where_from(stub: Stub, members: list[Member]) -> None:
    setup = quick(stub, rate=100, requests=40, repeats=2, slo="ttft:1s")
    both = [measured(setup, members, raw=raw) for raw in (True, False)]
    assert [len(run) for found in both for run in found.runs] == [40, 40, 0, 0]
    names = [{metric.name: metric.n for metric in metrics_of(found.runs, found.slo)} for found in both]
    assert names[0] == names[1]
    record = record_of(both[1], subject=subject_of(setup.endpoint))
    assert record.metric("ttft").p50 == pytest.approx(0.02, rel=0.3)
    assert record.workload.parameters["percentiles"] == "merged HDR histograms"
    assert [len(repeat) for repeat in record.workload.parameters["workers"]] == [2, 2]
    assert any("2 workers on" in note and "aligned to within" in note for note in record.notes)
    assert record.metric("requests").mean == 36  # a tenth warms up


def test_an_interrupt_ends_all_workers_and_keeps_what_was_seen(stub: Stub, members: list[Member]) -> None:
    def interrupt(_repeat: int, progress: Progress) -> None:
        if progress.finished >= 10:
            raise KeyboardInterrupt

    found = measured(quick(stub, rate=100, duration=60, repeats=2, warm_up=0), members, on_progress=interrupt)
    assert [len(run) >= 10 for run in found.runs] == [True]
    assert found.cut
    assert found.runs[0].meta["wall"] < 30


def test_what_a_worker_has_to_say_of_a_load_is_raised_here(stub: Stub, members: list[Member]) -> None:
    setup = quick(stub, workload="conversations", requests=4, concurrency=2)
    with pytest.raises(InvalidRequestError, match="conversations; use the chat API"):
        measured(Setup(**{**vars_of(setup), "endpoint": quick(stub).endpoint}), members)
    with pytest.raises(InvalidRequestError, match="can't be divided among 2"):
        measured(quick(stub, concurrency=1, requests=3), members)


def vars_of(setup: Setup) -> dict[str, Any]:
    return {
        name: getattr(setup, name) for name in ("workload", "arrivals", "manner", "count", "repeats", "slo", "notes")
    }


def test_more_workers_than_processors_are_refused(cluster: None) -> None:
    with pytest.raises(ConfigError, match="3 workers need a processor each"), workers(3, None):
        pass


def test_a_lost_worker_ends_the_run_and_the_others_figures_are_kept(stub: Stub, members: list[Member]) -> None:
    def kill(_repeat: int, progress: Progress) -> None:
        if progress.finished >= 10 and members[1].about["pid"] not in killed:
            killed.append(members[1].about["pid"])
            os.kill(members[1].about["pid"], signal.SIGKILL)

    killed: list[int] = []
    found = measured(quick(stub, rate=100, duration=60, repeats=2, warm_up=0), members, on_progress=kill)
    (run,) = found.runs
    assert len(run) >= 4
    assert not (run.id % 2).any()  # the first worker's alone
    assert {flaw.kind for flaw in flaws_of(found.runs)} == {"cut", "invalid"}
    assert "Worker 2 on" in found.invalid[0]
    assert "was lost" in found.invalid[0]
