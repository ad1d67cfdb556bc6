"""Fewer points, the same picture."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penstock.lab.pages.thin import histogram, lttb, order_statistics, sample

VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=3000).map(np.array)


@given(VALUES, st.integers(10, 200))
def test_each_point_of_a_distribution_is_a_value_at_its_own_rank(values: np.ndarray, most: int) -> None:
    found, share, note = order_statistics(values, most)
    ordered = np.sort(values)
    ranks = np.rint(share * len(values)).astype(int)
    np.testing.assert_array_equal(found, ordered[ranks - 1])
    assert len(found) <= max(most, 1)
    assert found[-1] == values.max()
    assert bool(note) == (len(values) > most)


def test_a_distributions_tail_is_drawn_finely() -> None:
    values = np.arange(1, 1_000_001, dtype=np.float64)
    found, share, note = order_statistics(values)
    assert np.count_nonzero(share > 0.9999) > 50
    assert f"{len(found)} of 1,000,000 values" in note


@given(st.integers(0, 2000), st.integers(3, 50), st.integers(0, 9))
def test_a_thinned_line_keeps_its_ends_and_its_order(n: int, most: int, seed: int) -> None:
    x, y = np.arange(n, dtype=np.float64), np.random.default_rng(seed).normal(size=n)
    kept = lttb(x, y, most)
    assert len(kept) == min(n, most)
    assert (np.diff(kept) > 0).all()
    if n:
        assert kept[0] == 0
        assert kept[-1] == n - 1


def test_a_thinned_line_keeps_a_single_spike() -> None:
    y = np.zeros(10_000)
    y[6_543] = 5.0
    assert 6_543 in lttb(np.arange(10_000, dtype=np.float64), y, 100)


@given(VALUES, st.integers(10, 300))
def test_a_sample_holds_the_highest_and_no_point_twice(values: np.ndarray, most: int) -> None:
    kept, note = sample(values, most)
    assert len(set(kept.tolist())) == len(kept) == min(len(values), most)
    assert values[kept].max() == values.max()
    assert bool(note) == (len(values) > most)


def test_a_sample_of_many_says_how_it_was_drawn_and_is_the_same_each_time() -> None:
    values = np.random.default_rng(1).random(50_000)
    kept, note = sample(values, 500)
    assert set(np.argsort(values)[-50:].tolist()) <= set(kept.tolist())
    assert note == "500 of 50,000 requests are drawn: the 50 highest, and the others at random"
    np.testing.assert_array_equal(kept, sample(values, 500)[0])


@given(VALUES)
def test_a_histogram_leaves_no_value_out(values: np.ndarray) -> None:
    edges, share = histogram(values)
    assert len(edges) == len(share) + 1
    assert abs(share.sum() - 1) < 1e-9
    assert edges[0] <= values.min()
    assert edges[-1] >= values.max()
