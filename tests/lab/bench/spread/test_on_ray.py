"""Several workers on a real Ray cluster of this machine, against a server with known delays."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from penstock.cli.main import main
from penstock.core.errors import ConfigError, InvalidRequestError
from penstock.core.record import Record
from penstock.lab import exits
from penstock.lab.bench.arrivals import schedule
from penstock.lab.bench.observations import Ending
from penstock.lab.bench.points import Trials
from penstock.lab.bench.records import flaws_of, metrics_of, record_of, subject_of
from penstock.lab.bench.run import Measured, measure
from penstock.lab.bench.scrape import Scraper
from penstock.lab.bench.settings import BenchSettings
from penstock.lab.bench.setup import Setup, set_up
from penstock.lab.bench.spread.cluster import Member, joined, workers
from penstock.lab.bench.stub import Stub
from penstock.lab.bench.sweep import Load
from penstock.lab.pages import run_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.lab.bench.offer import Progress


# Of a start of Ray that failed and was tried again.
pytestmark = [
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in.*Popen.__del__:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray with four processors on this machine, which has them or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # Ray's many processes would compile all they import
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        with ExitStack() as stack:
            try:
                stack.enter_context(joined(None, 4))
            except ConfigError:  # Ray gives its own processes 30 s, which a machine busy with other tests may not keep
                stack.enter_context(joined(None, 4))
            assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
            yield


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
    for part in range(2):  # one start for both; the stub's clock is this machine's
        assert -0.001 < late[run.id % 2 == part].min() < 0.05
    told = run.meta["spread"]["workers"]
    assert [worker["requests"] for worker in told] == [30, 30]
    assert all(abs(worker["clock_ahead"]) <= worker["clock_uncertainty"] for worker in told)


def test_a_closed_loop_keeps_its_concurrency_and_the_server_agrees(stub: Stub, members: list[Member]) -> None:
    setup = quick(stub, concurrency=5, duration=0.5, repeats=1)
    scraper = Scraper.find(setup.endpoint, None, None)
    told: list[Progress] = []
    found = measured(setup, members, scraper=scraper, on_progress=lambda _repeat, progress: told.append(progress))
    (run,) = found.runs
    assert max((run.sent <= at).sum() - (run.end <= at).sum() for at in run.sent) == 5
    assert run.meta["server"]["increases"]["finished"] == len(run) == told[-1].finished
    assert run.meta["stopped"]


def test_without_columns_a_record_has_figures_and_says_where_from(stub: Stub, members: list[Member]) -> None:
    setup = quick(stub, rate=100, requests=40, repeats=2, slo="e2e:60s")
    found = measured(setup, members, raw=False)
    assert [len(run) for run in found.runs] == [0, 0]
    record = record_of(found, subject=subject_of(setup.endpoint))
    assert record.metric("ttft").min >= 0.02
    assert record.metric("ttft").n == record.metric("requests").mean * 2 == 72  # a tenth warms up
    assert record.metric("goodput").mean == record.metric("request_throughput").mean
    assert record.workload.parameters["percentiles"] == "merged HDR histograms"
    assert [len(repeat) for repeat in record.workload.parameters["workers"]] == [2, 2]
    assert any("2 workers on" in note and "aligned to within" in note for note in record.notes)


def test_the_command_measures_with_workers_and_prints_nothing_but_the_record(
    stub: Stub, cluster: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = ("--rate", "100", "--requests", "20", "--repeats", "1", "--input-tokens", "4", "--output-tokens", "4")
    code = main(["bench", "run", stub.url, *asked, "--workers", "2", "--json", "--out", str(tmp_path)])
    out, err = capsys.readouterr()
    assert code in (0, exits.INVALID), err
    record = Record.from_json(out)
    assert record.command[-2:] == ("--workers", "2")
    assert record.workload.parameters["settings"]["workers"] == 2
    assert "Workers: 2 on" in err
    ((_, page),) = run_files.read(list(tmp_path.glob("*.json")))
    assert all(metric in page.metrics for metric in metrics_of(page.runs))  # read again from what was kept


def test_conversations_stay_whole_with_one_worker(stub: Stub, members: list[Member]) -> None:
    setup = quick(stub, workload="conversations?turns=3&think=0.001", api="chat", concurrency=2, requests=4, repeats=1)
    (run,) = measured(setup, members).runs
    assert len(run) == 12
    assert [(run.id % 2 == part).sum() for part in range(2)] == [6, 6]
    assert (run.ending == Ending.WHOLE).all()


def test_a_sweep_s_point_can_be_offered_by_workers(stub: Stub, members: list[Member]) -> None:
    from penstock.lab.bench.spread.ray_workers import Spread

    setup = quick(stub)
    trials = Trials(endpoint=setup.endpoint, workload=setup.workload, offering=Spread(members, raw=True))
    point = trials(Load(8, closed=True), 100, 5.0)
    assert point.requests == 100
    assert point.stability.served > 0
    assert not point.cut


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
    with pytest.raises(ConfigError, match="5 workers need a processor each"), workers(5, None):
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
    with pytest.raises(ConfigError, match="lost before the start"):  # nor is there another run without it
        measured(quick(stub, rate=100, requests=3), members)
