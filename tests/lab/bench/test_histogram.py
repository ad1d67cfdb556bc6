"""Histograms that add up: exact bounds, merging without loss, and a form that survives being sent."""

from __future__ import annotations

from base64 import b64encode

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.errors import InvalidRequestError
from penstock.lab.bench.histogram import RELATIVE_ERROR, Histogram, bucket_of, range_of

VALUES = st.lists(st.integers(0, (1 << 53) - 1) | st.integers(0, 5000), max_size=50)


def histogram_of(values: list[int], weights: list[int] | None = None) -> Histogram:
    found = Histogram()
    found.record(np.array(values, np.float64), None if weights is None else np.array(weights, np.int64))
    return found


def alike(a: Histogram, b: Histogram) -> bool:
    return np.array_equal(np.trim_zeros(a.counts, "b"), np.trim_zeros(b.counts, "b"))


@settings(max_examples=50)
@given(VALUES, VALUES)
def test_adding_gives_the_histogram_of_all_values_together(a: list[int], b: list[int]) -> None:
    added = histogram_of(a)
    added.add(histogram_of(b))
    assert alike(added, histogram_of(a + b))
    assert added.total == len(a) + len(b)


@given(VALUES.filter(bool), st.data())
def test_every_order_statistic_is_within_the_stated_error(values: list[int], data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, len(values)))
    exact = sorted(values)[rank - 1]
    found = histogram_of(values).middle_at(rank)
    assert abs(found - exact) <= RELATIVE_ERROR * exact
    assert exact >= 2048 or found == exact


@settings(max_examples=50)
@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=20), st.data())
def test_a_weight_counts_as_often_as_the_value_itself_would(values: list[int], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(values), max_size=len(values)))
    repeated = [value for value, weight in zip(values, weights, strict=True) for _ in range(weight)]
    assert alike(histogram_of(values, weights), histogram_of(repeated))


@settings(max_examples=50)
@given(VALUES, st.integers(1, 1 << 60))
def test_what_was_encoded_is_decoded_as_it_was(values: list[int], often: int) -> None:
    before = histogram_of(values)
    before.record(np.array([7.0]), np.array([often]))
    assert alike(Histogram.decode(before.encode()), before)


def test_buckets_follow_each_other_without_a_gap() -> None:
    assert all(range_of(bucket)[1] + 1 == range_of(bucket + 1)[0] for bucket in range(45_000))
    edges = np.array([range_of(bucket) for bucket in range(40_000)], np.float64)
    assert np.array_equal(bucket_of(edges[:, 0]), np.arange(40_000))
    assert np.array_equal(bucket_of(edges[:, 1]), np.arange(40_000))


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 1e17])
def test_what_is_no_time_is_refused(value: float) -> None:
    with pytest.raises(InvalidRequestError, match="counts numbers from 0"):
        histogram_of([1, value])  # type: ignore[list-item]


WHOLE = histogram_of(list(range(3000))).encode()


@given(st.text(max_size=80) | st.binary(max_size=80).map(lambda noise: b64encode(noise).decode()), st.integers(0, 200))
def test_what_is_no_histogram_is_refused_and_never_believed(noise: str, at: int) -> None:
    for text in (noise, WHOLE[: at % (len(WHOLE) - 4)]):
        with pytest.raises(InvalidRequestError, match="no histogram that can be read"):
            Histogram.decode(text)
