"""The order of runs: complete, and blind to drift."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.lab.bench.compare.order import order_of


def test_given_two_when_ordered_then_it_is_abba_and_its_mirror() -> None:
    assert ["".join(names) for names in order_of("AB", 4)] == ["AB", "BA", "BA", "AB"]


@given(st.integers(2, 7), st.integers(1, 20))
def test_given_any_number_when_ordered_then_each_is_in_each_round_once(count: int, rounds: int) -> None:
    names = [f"n{i}" for i in range(count)]
    plan = order_of(names, rounds)
    assert len(plan) == rounds
    assert all(sorted(each) == names for each in plan)


@given(st.integers(2, 7), st.integers(1, 8))
def test_given_an_even_number_of_rounds_when_ordered_then_all_have_the_same_mean_place_in_a_round(
    count: int, pairs: int
) -> None:
    names = [f"n{i}" for i in range(count)]
    plan = order_of(names, 2 * pairs)
    for name in names:
        assert sum(each.index(name) for each in plan) / len(plan) == pytest.approx((count - 1) / 2)
