"""When a compile is paid for: arithmetic, and intervals that hold what they promise."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.lab.bench.compile_study.break_even import break_even

SECONDS = st.floats(1e-4, 1e4)
ROUNDS = st.lists(SECONDS, min_size=2, max_size=12)


@given(st.lists(SECONDS, min_size=1, max_size=4), ROUNDS, ROUNDS, st.floats(0.01, 100))
def test_given_any_times_when_held_together_then_the_count_is_within_its_bounds_and_needs_no_unit(
    costs: list[float], before: list[float], after: list[float], scale: float
) -> None:
    found = break_even(costs, before, after)
    if found.requests is not None:
        assert found.requests * found.saving.value == pytest.approx(found.cost.value)
        assert found.low is not None
        assert found.low <= found.requests * (1 + 1e-9)
    if found.verdict == "pays":
        assert found.requests is not None
        assert found.high is not None
        assert found.requests <= found.high * (1 + 1e-9)
        # After as many requests as the upper bound, the least saving has brought in the highest cost.
        assert found.high * found.saving.low == pytest.approx(found.cost.high)
        assert found.pays_within(found.high)
        assert not found.pays_within(found.high * 0.99)
    else:
        assert found.high is None
    in_other_units = break_even(*([scale * value for value in values] for values in (costs, before, after)))
    # A bound that is zero but for rounding may fall on either side of it.
    if min(abs(found.saving.low), abs(found.saving.high)) > 1e-6 * max(*before, *after):
        assert in_other_units.verdict == found.verdict
        assert in_other_units.high == (None if found.high is None else pytest.approx(found.high, rel=1e-4))


@given(st.floats(0.1, 1e3), st.floats(0.1, 1e3), st.floats(0.001, 0.99))
def test_given_exact_times_when_held_together_then_the_count_is_cost_over_saving(
    cost: float, before: float, share: float
) -> None:
    found = break_even([cost], [before, before], [before * share, before * share])
    assert (found.verdict, found.low, found.high) == ("pays", found.requests, found.requests)
    assert found.requests == pytest.approx(cost / (before - before * share))
    assert break_even([cost], [before, before], [before / share, before / share]).verdict == "never"
    assert break_even([cost], [before, before], [before, before]).verdict == "never"
    assert break_even([-cost], [before, before], [before * share, before * share]).requests == 0


def test_given_one_round_when_held_together_then_nothing_is_promised() -> None:
    found = break_even([10.0], [2.0], [1.0])
    assert (found.verdict, found.requests, found.high) == ("open", 10.0, None)
    assert math.isinf(found.saving.high)


def test_given_noisy_rounds_of_a_known_saving_when_repeated_then_nineteen_of_twenty_intervals_hold_it() -> None:
    random = Random(3)
    held = 0
    for _ in range(400):
        before = [random.gauss(2.0, 0.1) for _ in range(8)]
        after = [random.gauss(1.6, 0.05) for _ in range(6)]
        found = break_even([20.0], before, after)
        assert found.verdict == "pays"
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 20.0 / 0.4 <= found.high
    assert 370 <= held <= 392  # 380 expected, 4.4 a standard deviation
