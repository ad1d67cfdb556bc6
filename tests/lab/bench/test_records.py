"""Measurements as records: complete, marked where they are flawed, and fit to be shown around."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from penstock.core.record import Record, Subject
from penstock.lab.bench.arrivals import ClosedLoop
from penstock.lab.bench.endpoint import Endpoint
from penstock.lab.bench.metrics import errors_by_kind, latencies, totals, window
from penstock.lab.bench.observations import Ending, Observations
from penstock.lab.bench.offer import Manner
from penstock.lab.bench.records import record_of, save, subject_of
from penstock.lab.bench.run import Measured
from penstock.lab.bench.slo import Slo
from support.fixed_load import FixedLoad
from support.observed import observed

if TYPE_CHECKING:
    from pathlib import Path

ENDPOINT = Endpoint(
    base="http://ann:secret@127.0.0.1:9", api="chat", model="tiny", ip="127.0.0.1", port=9, tls_name=None,
    headers={"authorization": "Bearer secret"},
)  # fmt: skip


def measured(*runs: Observations, slo: Slo | None = None) -> Measured:
    return Measured(
        endpoint=ENDPOINT, workload=FixedLoad(3), arrivals=ClosedLoop(2), manner=Manner(duration=9.0), count=None,
        slo=slo, runs=list(runs),
    )  # fmt: skip


def run(shift: float = 0.0, **meta: Any) -> Observations:
    client = {"loop_lag_p99": 0.001}
    return observed(gaps=[[0.5 + shift, 0.1, 0.3]] * 4, due=[0, 0, 1, 1], meta={"client": client} | meta)


def test_a_saved_measurement_has_its_observations_beside_it_and_says_how_to_repeat_it(tmp_path: Path) -> None:
    runs = [run(seed=0), run(0.1, seed=1)]
    command = ["penstock", "bench", "run", "http://ann:secret@127.0.0.1:9", "--api-key", "secret"]
    path, record = save(measured(*runs), tmp_path, subject=subject_of(ENDPOINT), name="one", command=command)
    assert Record.load(path) == record
    assert {file.name for file in tmp_path.iterdir()} == {"one.json", "one-0.npz", "one-1.npz"}
    record.verify_files(tmp_path)
    for file, seen in zip(record.files, runs, strict=True):
        loaded = Observations.load(tmp_path / file.path)
        assert np.array_equal(loaded.first_text, seen.first_text)
        assert loaded.meta == seen.meta
    assert record.command == ("penstock", "bench", "run", "http://127.0.0.1:9")
    assert "secret" not in path.read_text()
    parameters = record.workload.parameters
    assert parameters["concurrency"] == 2
    assert parameters["manner"]["duration"] == 9.0
    assert parameters["seeds"] == [0, 1]
    assert (parameters["endpoint"]["model"], parameters["endpoint"]["url"]) == ("tiny", "http://127.0.0.1:9")
    assert record.packages["penstock"]


def test_latencies_are_of_all_repeats_together_and_rates_have_a_sample_a_repeat() -> None:
    record = record_of(measured(run(), run(0.1), slo=Slo.parse("ttft:550ms")), subject=Subject("stub", "1"))
    ttft, itl, e2e = (record.metric(name) for name in ("ttft", "itl", "e2e"))
    assert (ttft.n, ttft.mean, ttft.min, ttft.max) == (8, pytest.approx(0.55), pytest.approx(0.5), pytest.approx(0.6))
    assert (itl.n, itl.mean) == (16, pytest.approx(0.2))
    assert e2e.mean == pytest.approx(0.95)
    assert record.metric("tpot").mean == pytest.approx(0.2)
    # 12 tokens from the first due request, at 0, to the last piece, at 1.9 and 2.0 s
    assert record.metric("output_throughput").samples == pytest.approx((12 / 1.9, 12 / 2.0))
    assert record.metric("total_throughput").samples == pytest.approx((52 / 1.9, 52 / 2.0))
    assert record.metric("goodput").samples == pytest.approx((4 / 1.9, 0))
    assert record.metric("loop_lag").samples == (0.001, 0.001)
    assert record.flaws == ()


@pytest.mark.parametrize(
    ("meta", "kinds", "reason"),
    [
        ({"cut": True, "wall": 1.25}, ["cut"], "after 1.2 s"),
        ({"invalid": ["The client sent late."]}, ["invalid"], "sent late"),
        ({"cut": True, "wall": 3.0, "invalid": ["No CPU."]}, ["cut", "invalid"], "Repeat 2: "),
    ],
)
def test_a_run_that_cannot_be_believed_is_a_flaw_of_its_record(
    meta: dict[str, Any], kinds: list[str], reason: str
) -> None:
    record = record_of(measured(run(), run(**meta)), subject=Subject("stub", "1"))
    assert [flaw.kind for flaw in record.flaws] == kinds
    assert any(reason in flaw.reason for flaw in record.flaws)
    assert json.loads(record.to_json())["flaws"]


def test_errors_are_counted_by_kind_with_an_example_in_the_notes() -> None:
    seen = observed(
        gaps=[[0.1]] * 6, warm_up=[True] + [False] * 5, status=[500, 503, 503, 429, 200, 200],
        ending=[Ending.STATUS] * 4 + [Ending.TIMEOUT, Ending.WHOLE],
    )  # fmt: skip
    seen.details.update({1: "busy", 2: "busy", 4: "no answer\nin time"})
    record = record_of(measured(seen), subject=Subject("stub", "1"))
    found = {metric.name: metric.mean for metric in record.metrics if metric.name.startswith("errors")}
    assert found == {"errors": 4, "errors_status_503": 2, "errors_status_429": 1, "errors_timeout": 1}
    assert errors_by_kind(seen) == {"timeout": 1, "status 429": 1, "status 503": 2}
    assert record.notes[-2:] == ("An error said: busy", "An error said: no answer in time")


def test_a_measurement_without_an_answer_has_a_record_still() -> None:
    for seen in (observed(gaps=[[]], ending=[Ending.CONNECT]), observed(gaps=[])):
        record = record_of(measured(seen, slo=Slo.parse("ttft:1s")), subject=Subject("stub", "1"))
        assert record.metric("errors").mean == len(seen)
        assert record.metric("goodput").mean == 0
        assert not any(metric.name == "ttft" for metric in record.metrics)


def test_a_run_that_the_clock_ended_counts_what_came_within_its_time() -> None:
    # Three answers of ten tokens, a tenth of a second apart; one begins in the warm-up, one ends after the run.
    seen = observed(
        gaps=[[0.05] + [0.1] * 9] * 3, due=[-0.5, 0.0, 1.5], warm_up=[True, False, False],
        completion_tokens=[10] * 3, meta={"duration": 2.0, "stopped": True},
    )  # fmt: skip
    assert window(seen) == (0.0, 2.0, False)
    found = totals(seen, latencies(seen), Slo.parse("e2e:1s"))
    assert found.output_tokens == 5 + 10 + 5
    assert found.whole == found.met == 2  # the warm-up's ended within, the last one after
    assert found.prompt_tokens == 20  # of those whose first token came within
    assert found.output_throughput == 10
    assert found.requests == 2


def test_a_run_that_was_cut_counts_what_came_until_then() -> None:
    seen = observed(
        gaps=[[0.05] + [0.1] * 9] * 2, due=[0.0, 1.5], ending=[Ending.WHOLE, Ending.CUT],
        completion_tokens=[10, -1], meta={"cut": True, "wall": 2.0},
    )  # fmt: skip
    found = totals(seen, latencies(seen))
    assert (found.begin, found.end, found.output_tokens, found.whole) == (0.0, 2.0, 15, 1)


def test_a_run_of_so_many_requests_counts_them_to_the_last_piece() -> None:
    seen = observed(gaps=[[1.0, 0.5], [1.0, 2.0]], due=[0, 1], warm_up=[True, False])
    found = totals(seen, latencies(seen))
    assert (found.begin, found.end, found.output_tokens, found.whole) == (1, 4, 2, 1)
