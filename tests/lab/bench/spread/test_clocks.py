"""Clocks compared over ways that are slow, unequal and unsteady: simulated, so that the truth is known."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.lab.bench.spread.clocks import Offset, apart, exchange, residual
from penstock.lab.bench.validity import clocks_apart


class Way:
    """To a clock that is `ahead` ns, each way taking an exponential time of its own mean; `now` is the truth."""

    def __init__(self, ahead: int, there: float, back: float, seed: int) -> None:
        self._ahead, self._there, self._back = ahead, there, back
        self._random = Random(seed)
        self.now = 10**12

    def here(self) -> int:
        return self.now

    def far(self) -> int:
        self.now += int(self._random.expovariate(1 / self._there))
        read = self.now + self._ahead
        self.now += int(self._random.expovariate(1 / self._back))
        return read


@given(
    st.integers(-(10**15), 10**15), st.floats(1e3, 1e8), st.floats(1e3, 1e8), st.integers(0, 1000), st.integers(1, 40)
)
def test_the_truth_is_always_within_the_uncertainty(
    ahead: int, there: float, back: float, seed: int, rounds: int
) -> None:
    way = Way(ahead, there, back, seed)
    found = exchange(way.far, read_here=way.here, rounds=rounds)
    assert abs(found.ahead - ahead) <= found.uncertainty
    assert found.there(5) == 5 + found.ahead


def test_more_exchanges_make_it_more_certain() -> None:
    once, often = Way(0, 1e6, 1e6, 7), Way(0, 1e6, 1e6, 7)
    first, best = (exchange(way.far, read_here=way.here, rounds=n) for way, n in ((once, 1), (often, 30)))
    assert best.uncertainty < first.uncertainty / 3


def test_what_clocks_drift_apart_during_a_run_counts() -> None:
    assert residual(Offset(10, 300), None) == 300
    assert residual(Offset(10, 300), Offset(20, 200)) == 300
    assert residual(Offset(10, 300), Offset(5010, 200)) == 5200


def test_two_clocks_may_be_apart_by_what_both_are_from_this_one() -> None:
    assert [apart(each) for each in ([], [300], [300, 200, 100])] == [0, 300, 500]


def test_clocks_too_far_apart_for_what_is_measured_make_a_run_invalid() -> None:
    assert clocks_apart(0.0019, ttft=0.001) is None  # never below 2 ms
    assert clocks_apart(0.009, ttft=0.1) is None
    assert "within 11.0 ms, and 10.0 ms is a tenth" in str(clocks_apart(0.011, ttft=0.1))


def test_a_clock_is_asked_at_least_once() -> None:
    with pytest.raises(ValueError, match="at least once"):
        exchange(lambda: 0, rounds=0)
