"""Every figure against what a stub with known delays says of itself: computed here from its own notes alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from penstock.lab.bench.arrivals import ClosedLoop, Gamma
from penstock.lab.bench.endpoint import Endpoint
from penstock.lab.bench.metrics import latencies, totals
from penstock.lab.bench.offer import Manner
from penstock.lab.bench.records import metrics_of
from penstock.lab.bench.run import measure
from penstock.lab.bench.slo import Slo
from penstock.lab.bench.stub import Stub, Truth
from support.fixed_load import FixedLoad

if TYPE_CHECKING:
    from penstock.core.record import Metric
    from penstock.lab.bench.arrivals import Arrivals
    from penstock.lab.bench.observations import Observations

# From the stub's write to the client's stamp, on average: an idle machine takes 0.1 ms, one at work a few.
TRANSIT_S = 0.004


@dataclass
class Run:
    seen: Observations
    truth: dict[int, Truth]  # by request id
    metrics: dict[str, Metric]

    def due(self) -> dict[int, float]:
        return dict(zip(self.seen.id.tolist(), self.seen.due.tolist(), strict=True))

    def at(self, ns: int) -> float:
        """A moment of the stub's notes, in s after the run's start."""
        return ns / 1e9 - self.seen.meta["started_monotonic"]


def run(
    arrivals: Arrivals, *, count: int | None = None, asked: int = 8, slo: str | None = None,
    manner: Manner | None = None, **behaviour: Any,
) -> Run:  # fmt: skip
    with Stub(seed=5, **behaviour) as stub:
        endpoint = Endpoint.open(stub.url)
        measured = measure(
            endpoint, FixedLoad(asked), arrivals, manner or Manner(timeout=2.0), count=count,
            slo=None if slo is None else Slo.parse(slo),
        )  # fmt: skip
        truth = {int(seen.id.removeprefix("bench-")): seen for seen in stub.truth() if seen.id}
    (seen,) = measured.runs
    return Run(seen, truth, {metric.name: metric for metric in metrics_of([seen], measured.slo)})


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param({"ttft": 0.05, "itl": 0.01}, id="constant"),
        pytest.param({"ttft": "lognormal:40ms,0.8", "itl": "pareto:4ms,1.8"}, id="heavy-tailed"),
        pytest.param({"ttft": 0.03, "itl": 0.01, "tokens_per_chunk": 3}, id="chunks"),
        pytest.param({"ttft": 0.03, "itl": 0.01, "slots": 4}, id="capacity"),
        pytest.param({"ttft": 0.03, "itl": 0.01, "tokens": "uniform:2,8"}, id="drawn lengths"),
    ],
)
def test_latencies_and_rates_are_what_the_server_knows_of_itself(behaviour: dict[str, Any]) -> None:
    found = run(Gamma(60), count=60, **behaviour)
    truth, due = found.truth, found.due()
    assert len(truth) == 60
    ttft = {i: found.at(each.first) - due[i] for i, each in truth.items()}
    e2e = {i: found.at(each.last) - due[i] for i, each in truth.items()}
    tpot = {i: (e2e[i] - ttft[i]) / (each.tokens - 1) for i, each in truth.items()}
    for name, expected, least in (("ttft", ttft, 0.0), ("e2e", e2e, 0.0), ("tpot", tpot, -TRANSIT_S)):
        metric = found.metrics[name]
        assert metric.n == 60
        assert least <= metric.mean - fmean(expected.values()) < TRANSIT_S
        assert abs(metric.p50 - np.percentile(list(expected.values()), 50)) < TRANSIT_S
    by_id = dict(zip(found.seen.id.tolist(), latencies(found.seen).ttft.tolist(), strict=True))
    assert all(by_id[i] >= ttft[i] for i in ttft)  # no answer is seen before it is written
    tokens = sum(each.tokens for each in truth.values())
    seconds = max(found.at(each.last) for each in truth.values()) - min(due.values())
    assert found.metrics["output_throughput"].mean == pytest.approx(tokens / seconds, rel=0.01)
    assert found.metrics["total_throughput"].mean == pytest.approx((tokens + 60 * 3) / seconds, rel=0.01)
    assert found.metrics["request_throughput"].mean == pytest.approx(60 / seconds, rel=0.01)
    per_chunk = behaviour.get("tokens_per_chunk", 1)
    pieces = sum(-(-each.tokens // per_chunk) for each in truth.values())
    assert found.metrics["chunk_gap"].n == pieces - 60
    assert found.metrics["chunk_gap"].mean == pytest.approx(
        sum(e2e[i] - ttft[i] for i in truth) / (pieces - 60), abs=TRANSIT_S
    )
    if per_chunk > 1:  # 8 tokens in pieces of 3, 3 and 2: a gap stands for 8/3 of a token
        assert found.metrics["itl"].mean == pytest.approx(found.metrics["chunk_gap"].mean * 3 / 8, rel=1e-5)


def test_time_in_the_servers_queue_is_part_of_the_time_to_the_first_token() -> None:
    found = run(Gamma(100, 0.0), count=40, ttft=0.04, itl=0.0, asked=1, slots=2)  # 50 a second at most
    due = found.due()
    last = max(due, key=lambda i: due[i])
    waited = (found.truth[last].started - found.truth[last].received) / 1e9
    assert waited > 0.3  # 40 arrive in 0.4 s, and 20 slots' worth of work take 0.8 s
    ttft = dict(zip(found.seen.id.tolist(), latencies(found.seen).ttft.tolist(), strict=True))
    assert ttft[last] == pytest.approx(waited + 0.04, abs=0.02)


def test_answers_that_go_wrong_are_counted_by_kind_and_have_no_latency() -> None:
    found = run(Gamma(200), count=100, ttft=0.01, itl=0.001, faults=["0.2:status=503", "0.2:cut"])
    kinds = Counter("whole" if each.whole else "truncated" if each.tokens else "status_503"
                    for each in found.truth.values())  # fmt: skip
    assert min(kinds.values()) > 5
    assert found.metrics["requests"].mean == 100
    assert found.metrics["errors_status_503"].mean == kinds["status_503"]
    assert found.metrics["errors_truncated"].mean == kinds["truncated"]
    assert found.metrics["errors"].mean == 100 - kinds["whole"]
    assert found.metrics["ttft"].n == found.metrics["e2e"].n == kinds["whole"]
    tokens = sum(each.tokens for each in found.truth.values() if each.whole)
    rates = totals(found.seen, latencies(found.seen))
    assert (rates.whole, rates.output_tokens) == (kinds["whole"], tokens)


@pytest.mark.parametrize(
    ("fault", "kind"), [("malformed", "malformed"), ("in_stream", "in_stream"), ("hang", "timeout")]
)
def test_a_run_in_which_all_goes_wrong_has_counts_alone(fault: str, kind: str) -> None:
    manner = Manner(timeout=0.3)
    found = run(Gamma(200), count=20, ttft=0.01, itl=0.001, faults=[f"1:{fault}"], manner=manner, slo="ttft:1s")
    assert found.metrics[f"errors_{kind}"].mean == found.metrics["errors"].mean == 20
    assert set(found.metrics) == {"requests", "errors", f"errors_{kind}", "goodput", "loop_lag"}
    assert found.metrics["goodput"].mean == 0


def test_goodput_counts_the_answers_that_meet_every_bound() -> None:
    found = run(Gamma(80), count=80, ttft="uniform:10ms,90ms", itl="constant:1ms", slo="ttft:50ms,e2e:1s")
    due = found.due()
    met = Counter(found.at(each.first) - due[i] <= 0.05 for i, each in found.truth.items())
    seconds = found.metrics["requests"].mean / found.metrics["request_throughput"].mean
    assert 20 < met[True] < 60
    assert found.metrics["goodput"].mean * seconds == pytest.approx(met[True], abs=3)  # a few lie at the bound


@pytest.mark.parametrize("arrivals", [ClosedLoop(8), Gamma(32, 0.0)], ids=["closed", "open"])
def test_neither_filling_nor_draining_counts_into_the_rates_of_a_run_of_so_many_seconds(arrivals: Arrivals) -> None:
    # An answer takes 0.25 s, and 8 are under way: 32 a second. The last ones end 0.25 s after the run.
    found = run(arrivals, asked=41, ttft=0.05, itl=0.005, manner=Manner(duration=1.5, warm_up=8), slo="ttft:5s")
    rates = totals(found.seen, latencies(found.seen))
    assert rates.end == 1.5
    expected = arrivals.rate or 8 / found.metrics["e2e"].mean  # Little's law
    assert 28 < expected <= 32
    assert found.metrics["output_throughput"].mean == pytest.approx(expected * 41, rel=0.04)
    if arrivals.rate:  # a closed loop's answers come eight at once, within the window or not
        assert found.metrics["request_throughput"].mean == pytest.approx(expected, rel=0.05)
        assert found.metrics["total_throughput"].mean == pytest.approx(expected * 44, rel=0.04)
    assert found.metrics["goodput"].mean == found.metrics["request_throughput"].mean
    everything = sum(each.tokens for each in found.truth.values()) / float(found.seen.last_text.max())
    assert everything < found.metrics["output_throughput"].mean  # as filling and draining are in it


def test_a_stall_shows_in_the_requests_that_were_due_during_it() -> None:
    """Coordinated omission (Tene, How NOT to Measure Latency, 2013) is absent: latency counts from the due time."""
    found = run(Gamma(50, 0.0), count=125, ttft=0.02, itl=0.0, asked=1, stalls=["0.5s:1s"])
    due = found.due()
    ttft = dict(zip(found.seen.id.tolist(), latencies(found.seen).ttft.tolist(), strict=True))
    stalled = [i for i in due if 0.53 < due[i] < 1.47]
    assert len(stalled) > 40
    for i in stalled:  # falling linearly from a second
        assert ttft[i] == pytest.approx(1.5 - due[i] + 0.02, abs=0.04)
    assert found.metrics["ttft"].p90 > 0.6


def test_a_client_that_waits_for_answers_would_hardly_have_seen_the_stall() -> None:
    found = run(ClosedLoop(1), asked=1, ttft=0.02, itl=0.0, stalls=["0.5s:1s"], manner=Manner(duration=2.5))
    ttft = latencies(found.seen).ttft
    assert (ttft > 0.1).sum() == 1
    assert found.metrics["ttft"].p90 < 0.05
