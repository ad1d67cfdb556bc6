"""Verdicts on a backlog, held against simulated queues whose capacity is known."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from benchmarks.queues import in_order, poisson, services, shared
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from penstock.lab.bench.stability import Verdict, judge_times, steady_share

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = 40


def verdicts(
    serve: Callable[..., np.ndarray], servers: int, service: str, load: float, n: int, runs: int = RUNS
) -> Counter[Verdict]:
    found: Counter[Verdict] = Counter()
    for seed in range(runs):
        random = np.random.default_rng(seed)
        due, work = poisson(random, load * servers, n), services(random, service, n)
        found[judge_times(due, serve(due, work, servers), np.ones(n, bool)).verdict] += 1
    return found


@pytest.mark.parametrize("service", ["constant", "exponential", "lognormal:1.0", "pareto:2.2"])
@pytest.mark.parametrize(("serve", "servers"), [(in_order, 8), (shared, 8)])
def test_a_queue_far_below_its_capacity_is_stable_and_one_far_above_overloaded(
    serve: Callable[..., np.ndarray], servers: int, service: str
) -> None:
    below, above = (verdicts(serve, servers, service, load, 2000) for load in (0.7, 1.25))
    assert below[Verdict.STABLE] >= 0.85 * RUNS
    assert below[Verdict.OVERLOADED] == 0
    assert above[Verdict.OVERLOADED] >= 0.85 * RUNS
    assert above[Verdict.STABLE] == 0


def test_a_queue_at_exactly_its_capacity_is_neither_called_stable_nor_overloaded() -> None:
    # Its backlog grows like the square root of time, which a fitted line calls a trend in most runs.
    found = verdicts(in_order, 8, "exponential", 1.0, 2000, 200)
    assert found[Verdict.STABLE] <= 0.1 * 200
    assert found[Verdict.OVERLOADED] <= 0.03 * 200


def test_a_longer_run_tells_what_a_short_one_could_not() -> None:
    short, long = (verdicts(in_order, 8, "exponential", 0.9, n) for n in (500, 8000))
    assert short[Verdict.INCONCLUSIVE] > RUNS / 2
    assert long[Verdict.STABLE] > 0.8 * RUNS


def test_long_answers_that_have_yet_to_end_are_no_backlog() -> None:
    # Without a limit on what is served at once nothing can back up, but heavy-tailed lengths fill it for long.
    for seed in range(20):
        random = np.random.default_rng(seed)
        due = poisson(random, 20.0, 2000)
        found = judge_times(due, due + services(random, "pareto:1.5", 2000), np.ones(2000, bool))
        assert found.verdict in (Verdict.STABLE, Verdict.INCONCLUSIVE)


def test_a_run_shorter_than_its_answers_tells_nothing() -> None:
    due = np.linspace(0, 10, 1000)
    found = judge_times(due, due + 30.0, np.ones(1000, bool))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "five times as long" in found.reason


def test_a_server_that_stops_answering_half_way_is_not_stable() -> None:
    due = np.linspace(0, 100, 2000)
    end = np.where(due < 50, due + 0.1, np.inf)
    found = judge_times(due, end, np.isfinite(end))
    assert found.verdict not in (Verdict.STABLE, Verdict.INCONCLUSIVE)
    assert found.excess == pytest.approx(50 / 80, abs=0.02)
    assert found.served == pytest.approx(20 * 30 / 80, rel=0.02)


def test_few_requests_are_inconclusive() -> None:
    due = np.linspace(0, 10, 50)
    assert judge_times(due, due + 0.1, np.ones(50, bool)).verdict is Verdict.INCONCLUSIVE


@given(
    arrays.arrays(np.float64, st.integers(0, 400), elements=st.floats(0, 1e6)),
    st.floats(0, 1e6),
)
def test_any_times_get_a_verdict_with_finite_rates(due: np.ndarray, wait: float) -> None:
    found = judge_times(due, due + wait, np.ones(len(due), bool))
    assert isinstance(found.verdict, Verdict)
    assert np.isfinite([found.offered, found.served, found.served_error, found.in_system]).all()


class Seen:
    """What `steady_share` reads."""

    def __init__(self, due: np.ndarray) -> None:
        self.due = due

    def __len__(self) -> int:
        return len(self.due)


def test_a_share_leaves_out_the_filling_and_its_error_knows_that_neighbours_fare_alike() -> None:
    due = np.linspace(0, 100, 1000)
    alternating, in_turn = np.arange(1000) % 2 == 0, (np.arange(1000) // 200) % 2 == 0
    share, error = steady_share(Seen(due), alternating)  # type: ignore[arg-type]
    assert share == pytest.approx(0.5, abs=0.01)
    assert error == pytest.approx(0.5 / 800**0.5, rel=0.05)
    assert steady_share(Seen(due), in_turn)[1] > 5 * error  # type: ignore[arg-type]
    assert steady_share(Seen(due), due >= 20)[0] == 1.0  # type: ignore[arg-type]
