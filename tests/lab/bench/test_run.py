"""A measurement as a whole: repeats, loads, traces, what the server saw of it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from penstock.core.errors import ConfigError, InvalidRequestError
from penstock.lab.bench.agreement import pairs
from penstock.lab.bench.endpoint import Endpoint
from penstock.lab.bench.observations import Ending
from penstock.lab.bench.run import Measured, measure
from penstock.lab.bench.scrape import Scraper
from penstock.lab.bench.settings import BenchSettings
from penstock.lab.bench.setup import OwnTimes, Setup, set_up
from penstock.lab.bench.stub import Stub
from support.live_server import serve_model
from support.tiny_chat import write_tiny_chat

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.lab.bench.offer import Progress


def measured(setup: Setup, scraper: Scraper | None = None) -> Measured:
    return measure(
        setup.endpoint, setup.workload, setup.arrivals, setup.manner,
        count=setup.count, repeats=setup.repeats, slo=setup.slo, scraper=scraper,
    )  # fmt: skip


def quick(url: str, **settings: Any) -> Setup:
    return set_up(BenchSettings.read(None, url=url, **{"input_tokens": "4", "output_tokens": "3", **settings}))


def test_each_repeat_has_a_seed_of_its_own_and_the_same_one_the_next_time() -> None:
    with Stub(ttft=0.001, itl=0.001) as stub:
        setup = quick(stub.url, requests=6, rate=200, repeats=2, seed=5)
        first, again = measured(setup), measured(setup)
    assert [run.meta["seed"] for run in first.runs] == [5, 6]
    assert [run.meta["repeat"] for run in first.runs] == [0, 1]
    due = [np.sort(run.due) for run in (*first.runs, *again.runs)]
    np.testing.assert_allclose(due[0], due[2])
    np.testing.assert_allclose(due[1], due[3])
    assert not np.allclose(due[0], due[1])


def test_progress_ends_with_all_that_was_seen() -> None:
    told: list[tuple[int, Progress]] = []
    with Stub(ttft=0.002, itl=0.001) as stub:
        setup = quick(stub.url, requests=8, concurrency=2, repeats=2)
        measure(
            setup.endpoint, setup.workload, setup.arrivals, setup.manner,
            count=8, repeats=2, on_progress=lambda repeat, progress: told.append((repeat, progress)),
        )  # fmt: skip
    for repeat in (0, 1):
        last = [progress for number, progress in told if number == repeat][-1]
        assert (last.sent, last.finished, last.failed, last.in_flight, last.tokens) == (8, 8, 0, 0, 24)
        assert last.ttft is not None
        assert 0.002 <= last.ttft < 1


@pytest.mark.parametrize(
    ("load", "described", "warm_up"),
    [
        ({}, {"arrivals": "closed", "concurrency": 4}, 4),
        ({"concurrency": 2, "requests": 10}, {"arrivals": "closed", "concurrency": 2}, 2),
        ({"concurrency": 2, "ramp_up": 1}, {"arrivals": "closed", "concurrency": 2, "ramp": 1.0}, 2),
        ({"rate": 50, "requests": 40}, {"arrivals": "poisson", "rate": 50.0, "burstiness": 1.0}, 4),
        ({"rate": 50, "arrivals": "constant"}, {"arrivals": "constant", "rate": 50.0, "burstiness": 0.0}, 50),
        ({"rate": 5, "burstiness": 4, "warm_up": 3}, {"arrivals": "gamma", "rate": 5.0, "burstiness": 4.0}, 3),
        ({"steps": "10:2,20:3"}, {"arrivals": "stages", "stages": "10:2,20:3", "burstiness": 1.0}, 8),
        ({"ramp": "2:8", "duration": 5}, {"arrivals": "stages", "stages": "2-8:5", "burstiness": 1.0}, 2),
    ],
)
def test_options_become_a_load_and_its_warm_up(load: dict[str, Any], described: dict[str, Any], warm_up: int) -> None:
    with Stub(ttft=0.001, itl=0.001) as stub:
        setup = quick(stub.url, **load)
    assert setup.arrivals.describe() == described
    assert setup.manner.warm_up == warm_up
    assert setup.repeats == 3


def test_steps_end_by_themselves() -> None:
    with Stub(ttft=0.001, itl=0.001) as stub:
        (run,) = measured(quick(stub.url, steps="50:0.2,100:0.2", arrivals="constant", repeats=1)).runs
    assert len(run) == 30
    assert run.due.max() < 0.4


@pytest.fixture
def trace(tmp_path: Path) -> str:
    rows = "".join(f"2023-11-16 18:17:{second}0,4,3\n" for second in ("03.00", "03.10", "03.20"))
    (tmp_path / "t.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    return f"azure:{tmp_path}/t.csv"


def test_a_trace_keeps_its_times_unless_another_load_is_asked_for(trace: str) -> None:
    with Stub(ttft=0.001, itl=0.001) as stub:
        setup = set_up(BenchSettings.read(None, url=stub.url, workload=trace))
        assert isinstance(setup.arrivals, OwnTimes)
        assert setup.repeats == 1
        (run,) = measured(setup).runs
        np.testing.assert_allclose(np.sort(run.due), [0, 0.1, 0.2], atol=1e-6)
        setup = set_up(BenchSettings.read(None, url=stub.url, workload=trace, concurrency=1, requests=3, repeats=1))
        (run,) = measured(setup).runs
    assert run.due.max() < 0.1
    assert setup.workload.describe()["own_times"] is False


def test_what_the_stub_counted_of_a_run_is_what_was_seen_here() -> None:
    with Stub(ttft=0.05, itl=0.01) as stub:
        setup = quick(stub.url, requests=20, concurrency=5, repeats=2, output_tokens="6")
        scraper = Scraper.find(setup.endpoint)
        assert scraper is not None
        assert scraper.engine == "vllm"
        runs = measured(setup, scraper).runs
    for run in runs:
        found = {pair.name: pair for pair in pairs(run)}
        assert (found["finished"].client, found["finished"].server) == (20, 20)
        assert (found["generation_tokens"].client, found["generation_tokens"].server) == (120, 120)
        assert found["ttft"].client == pytest.approx(found["ttft"].server, abs=0.005)
        assert found["e2e"].client == pytest.approx(found["e2e"].server, abs=0.005)


def test_penstocks_own_sums_and_counts_agree_with_the_clients(tmp_path: Path) -> None:
    model = write_tiny_chat(tmp_path)
    with serve_model(model, max_model_len=256) as live:
        setup = quick(live.url, requests=40, concurrency=4, repeats=1, input_tokens="24", output_tokens="32")
        scraper = Scraper.find(setup.endpoint)
        assert scraper is not None
        assert scraper.engine == "penstock"
        (run,) = measured(setup, scraper).runs
    found = {pair.name: pair for pair in pairs(run)}
    told = run.meta["server"]
    assert 0 <= told["queue"]["p50"] <= told["queue"]["p99"]
    assert (run.ending == Ending.WHOLE).all()
    for count in ("finished", "prompt_tokens", "generation_tokens"):
        assert found[count].client == found[count].server
    # 2 %, or what the loopback and two event loops on a busy machine take of times of some milliseconds.
    assert found["e2e"].client == pytest.approx(found["e2e"].server, rel=0.02, abs=0.01)
    assert found["ttft"].client == pytest.approx(found["ttft"].server, rel=0.02, abs=0.01)
    assert found["itl"].client == pytest.approx(found["itl"].server, rel=0.02, abs=0.0005)


def test_a_server_that_dies_in_a_run_leaves_what_was_seen_until_then() -> None:
    stub = Stub(ttft=0.01, itl=0.01)
    setup = quick(stub.url, rate=100, requests=60, repeats=1, output_tokens="10", warm_up=0)
    seen: list[Progress] = []

    def watch(_repeat: int, progress: Progress) -> None:
        seen.append(progress)
        if progress.finished >= 10 and len(seen) > 1:
            threading.Thread(target=stub.stop).start()

    done = measure(setup.endpoint, setup.workload, setup.arrivals, setup.manner, count=60, on_progress=watch)
    (run,) = done.runs
    endings = {Ending(ending) for ending in run.ending.tolist()}
    assert len(run) == 60
    assert Ending.WHOLE in endings
    assert endings & {Ending.CONNECT, Ending.TRUNCATED, Ending.BROKEN}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rate": 1, "concurrency": 1}, "--concurrency and --rate exclude each other"),
        ({"arrivals": "gamma", "rate": 1}, "need a --burstiness"),
        ({"arrivals": "poisson"}, "give one"),
        ({"ramp_up": 3, "rate": 1}, "is of a closed loop"),
        ({"burstiness": 2}, "give one"),
        ({"burstiness": 2, "rate": 1, "arrivals": "constant"}, "have a burstiness of their own"),
        ({"body": "[1]"}, "body: must be a JSON object"),
        ({"header": ["nothing"]}, 'must be headers of the form "NAME: VALUE"'),
        ({"header": ["a: b\r\nX: c"]}, 'must be headers of the form "NAME: VALUE"'),
        ({"requests": 0}, "must be an integer of at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        BenchSettings.read(None, **settings)


@pytest.mark.parametrize(("workload", "api"), [("conversations", "chat"), ("synthetic", "completions")])
def test_conversations_are_put_to_a_chat_unless_told_otherwise(workload: str, api: str) -> None:
    with Stub() as stub:
        assert set_up(BenchSettings(url=stub.url, workload=workload)).endpoint.api == api


def test_what_can_be_wrong_is_found_before_anything_is_sent() -> None:
    nowhere = "http://127.0.0.1:1"
    for settings, said in (
        ({"slo": "ttft"}, "is no bound"),
        ({"workload": "syntetic"}, "Did you mean 'synthetic'"),
        ({"ramp": "fast"}, "A ramp is two rates"),
        ({"input_tokens": "many"}, "input_tokens"),
        ({"workload": "synthetic?input_tokens=3", "input_tokens": "4"}, "given both"),
    ):
        with pytest.raises(InvalidRequestError, match=said):
            set_up(BenchSettings.read(None, url=nowhere, **settings))


def test_a_measurement_can_be_asked_for_again_by_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    settings = BenchSettings.read(
        None, url="http://h", rate=2.5, arrivals="constant", keep_alive=False, ignore_eos=True, header=["a: b"],
        body='{"n": 1}', seed=3,
    )  # fmt: skip
    assert settings.api_key == "secret"
    assert settings.command() == [
        "penstock", "bench", "run", "http://h", "--header", "a: b", "--body", '{"n": 1}', "--ignore-eos",
        "--no-keep-alive", "--seed", "3", "--rate", "2.5", "--arrivals", "constant",
    ]  # fmt: skip
    assert "secret" not in str(settings.describe())
    assert "secret" not in repr(settings)


def test_requests_that_wait_for_a_stalled_server_are_late_from_when_they_were_due() -> None:
    with Stub(ttft=0.002, itl=0.001, stalls=["0.1:0.5"]) as stub:
        endpoint = Endpoint.open(stub.url)
        setup = quick(stub.url, rate=50, arrivals="constant", requests=40, repeats=1, warm_up=0)
        (run,) = measure(endpoint, setup.workload, setup.arrivals, setup.manner, count=40).runs
    ttft = (run.first_text - run.due)[np.argsort(run.due)]
    assert (ttft > 0.1).sum() >= 10  # a closed loop of one would have seen one
