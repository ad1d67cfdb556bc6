"""Summaries with intervals: exact figures, and intervals that hold the truth as often as they say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.lab.bench.summary import Sections, binomial_ranks, of_requests

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from penstock.core.record import Metric


def summary(*runs: NDArray[np.float64]) -> Metric:
    metric = of_requests("ttft", "s", runs, Sections.split([np.ones(len(run), bool) for run in runs]))
    assert metric is not None
    return metric


def waits(seed: int, n: int, memory: float) -> NDArray[np.float64]:
    """Like the latencies of a queue: each is near the one before. Lognormal with median 1."""
    random = np.random.default_rng(seed)
    noise = random.normal(0, np.sqrt(1 - memory**2), n)
    state = np.empty(n)
    last = random.normal()
    for i in range(n):
        last = memory * last + noise[i]
        state[i] = last
    return np.exp(state)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_figures_are_those_of_numpy_and_a_nan_is_no_value(values: list[float], missing: int) -> None:
    metric = summary(np.array(values + [np.nan] * missing))
    assert metric.n == len(values)
    assert metric.mean == pytest.approx(np.mean(values), abs=1e-6)
    for percent in (50, 90, 95, 99):
        assert getattr(metric, f"p{percent}") == pytest.approx(np.percentile(values, percent), abs=1e-6)
        interval = metric.intervals.get(f"p{percent}")
        assert interval is None or interval.low <= interval.high
    assert (metric.min, metric.max) == (min(values), max(values))


@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_nineteen_of_twenty_intervals_hold_the_truth_though_requests_wait_for_each_other(memory: float) -> None:
    truth = {"mean": np.exp(0.5), "p50": 1.0, "p90": np.exp(1.2815516)}
    held = dict.fromkeys(truth, 0)
    runs = 200
    for seed in range(runs):
        metric = summary(waits(seed, 2000, memory))
        assert metric.ci is not None
        intervals = metric.intervals | {"mean": metric.ci}
        for name, value in truth.items():
            held[name] += intervals[name].low <= value <= intervals[name].high
    for name, count in held.items():
        assert count / runs > 0.9, name


def test_repeats_that_differ_more_than_their_sections_widen_the_interval() -> None:
    random = np.random.default_rng(3)
    alike = [random.normal(1, 0.01, 200) for _ in range(4)]
    apart = [run + shift for run, shift in zip(alike, (0, 0.1, 0.2, 0.3), strict=True)]
    narrow, wide = summary(*alike).ci, summary(*apart).ci
    assert narrow is not None
    assert wide is not None
    assert narrow.high - narrow.low < 0.01
    assert wide.low < 1.05
    assert wide.high > 1.25


def test_too_few_values_tell_no_interval_of_a_high_percentile() -> None:
    metric = summary(waits(0, 100, 0.0))
    assert "p50" in metric.intervals
    assert "p99" not in metric.intervals  # with 100 values, one in three p99 lies above all of them
    assert summary(np.array([1.0])).ci is None


@pytest.mark.parametrize(
    ("n", "share", "ranks"),
    # Binomial(10, 1/2): P(B <= 1) = 0.0107, P(B <= 2) = 0.0547; Conover, Practical Nonparametric Statistics, 3.2
    [
        (10, 0.5, (2, 9)),
        (5, 0.5, None),
        (6, 0.5, (1, 6)),
        (367, 0.99, None),
        (368, 0.99, (360, 368)),
        (500, 0.99, (490, 500)),
    ],
)
def test_ranks_are_those_of_the_binomial_distribution(n: int, share: float, ranks: tuple[int, int] | None) -> None:
    found = binomial_ranks(n, share)
    if ranks is None:
        assert found is None
    else:
        assert found == ranks


@given(st.lists(st.lists(st.booleans(), max_size=60), min_size=1, max_size=4))
def test_sections_never_fall_and_are_of_about_equally_many(masks: list[list[bool]]) -> None:
    counted = [np.array(mask, bool) for mask in masks]
    sections = Sections.split(counted)
    for run, (mask, section) in enumerate(zip(counted, sections.of_request, strict=True)):
        assert (np.diff(section) >= 0).all()
        sizes = np.bincount(section[mask], minlength=len(sections.run))[sections.run == run]
        assert sizes.sum() == mask.sum()
        if len(sizes) > 1:
            assert sizes.min() >= 4
            assert sizes.max() - sizes.min() <= 1
