"""When a run's client can't be believed."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from penstock.lab.bench.arrivals import Gamma, schedule
from penstock.lab.bench.endpoint import Endpoint
from penstock.lab.bench.offer import Manner, offer
from penstock.lab.bench.planned import Planned
from penstock.lab.bench.stub import Stub
from penstock.lab.bench.validity import judge

if TYPE_CHECKING:
    from penstock.lab.bench.observations import Observations

GOOD = {
    "schedule_delay_p99": 0.0001, "schedule_delay_max": 0.001, "loop_lag_p99": 0.0001, "loop_lag_max": 0.001,
    "cpu": 0.1, "wall": 10.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def seen() -> Observations:
    """20 requests with a TTFT of 50 ms and gaps of 10 ms."""
    with Stub(ttft=0.05, itl=0.01) as stub:
        requests = schedule([Planned("a", 4)] * 20, Gamma(100, 0), seed=0)
        return offer(Endpoint.open(stub.url), requests, Manner())


def judged(seen: Observations, *, wall: float = 10.0, drift: float = 0.0, **client: float) -> tuple[str, ...]:
    meta = {**seen.meta, "client": GOOD | client, "wall": wall, "clock_drift": drift}
    return judge(replace(seen, meta=meta))


def test_a_client_on_time_is_believed(seen: Observations) -> None:
    assert judged(seen) == ()


@pytest.mark.parametrize(
    ("client", "said"),
    [
        ({"schedule_delay_p99": 0.02}, "sent late: its schedule delay's p99 is 20.0 ms"),
        ({"loop_lag_p99": 0.02}, "read late: its loop lag's p99 is 20.0 ms"),
        ({"loop_lag_max": 0.15}, "stood still for 150 ms, more than the 100 ms"),
        ({"cpu": 9.5}, "short of CPU: its thread was busy for 95%"),
        ({"drift": -3.0}, "jumped by -3.00 s"),
        ({"drift": 0.3}, "jumped by \\+0.30 s"),
    ],
)
def test_each_way_to_be_late_is_named(seen: Observations, client: dict[str, float], said: str) -> None:
    (reason,) = judged(seen, **client)
    assert re.search(said, reason)


def test_what_an_ordinary_scheduler_does_is_not_held_against_it(seen: Observations) -> None:
    assert judged(seen, schedule_delay_p99=0.0019, loop_lag_p99=0.0019, loop_lag_max=0.09, drift=0.2) == ()


def test_a_long_run_bears_a_longer_stall_and_more_drift(seen: Observations) -> None:
    assert judged(seen, wall=1000.0, loop_lag_max=5.0, drift=0.9) == ()
    assert len(judged(seen, wall=10.0, loop_lag_max=5.0, drift=0.9)) == 2
