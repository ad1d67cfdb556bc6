"""Ratios and their intervals against SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from penstock.lab.statistics import (
    Verdict,
    bootstrap_interval,
    paired_ratio,
    t_probability,
    t_quantile,
    unpaired_ratio,
    verdict,
)

pytestmark = pytest.mark.oracle

degrees = st.floats(1, 1e4)


@given(st.floats(-60, 60), degrees)
def test_given_any_t_when_its_probability_is_asked_then_it_is_scipys(t: float, df: float) -> None:
    assert t_probability(t, df) == pytest.approx(stats.t.cdf(t, df), abs=1e-10)


@given(st.floats(1e-4, 1 - 1e-4), degrees)
def test_given_any_probability_when_its_quantile_is_asked_then_it_is_scipys(p: float, df: float) -> None:
    assert t_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-6, abs=1e-8)


@pytest.fixture(params=range(5))
def pairs(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(request.param)
    n = int(generator.integers(2, 12))
    return generator.lognormal(0.1, 0.2, n), generator.lognormal(0, 0.2, n)


def test_given_pairs_when_compared_then_interval_and_p_are_those_of_the_paired_t_test(
    pairs: tuple[np.ndarray, np.ndarray],
) -> None:
    ratio = paired_ratio(*pairs)
    theirs = stats.ttest_rel(*(np.log(x) for x in pairs))
    low, high = theirs.confidence_interval(0.95)
    assert ratio.interval is not None
    assert (ratio.interval.low, ratio.interval.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert ratio.p_value == pytest.approx(theirs.pvalue)


def test_given_two_samples_when_compared_then_interval_and_p_are_welchs(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pairs[0], pairs[1][:-1] if len(pairs[1]) > 2 else pairs[1]
    ratio = unpaired_ratio(a, b)
    theirs = stats.ttest_ind(np.log(a), np.log(b), equal_var=False)
    low, high = theirs.confidence_interval(0.95)
    assert ratio.interval is not None
    assert (ratio.interval.low, ratio.interval.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert ratio.p_value == pytest.approx(theirs.pvalue)


def test_given_lags_when_compared_then_the_fit_is_scipys_regression(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = (np.concatenate([x, x[::-1] * 1.01]) for x in pairs)
    lag = np.resize([1.0, -1.0, 2.0], len(a))
    ratio = paired_ratio(a, b, lag=lag)
    theirs = stats.linregress(lag, np.log(a) - np.log(b))
    assert (ratio.log, ratio.drift) == pytest.approx((theirs.intercept, theirs.slope))
    assert ratio.error == pytest.approx(theirs.intercept_stderr)


@pytest.mark.parametrize("true", [1.0, 1.01, 1.02])
def test_given_a_margin_when_judged_then_equivalence_is_what_two_one_sided_tests_say(true: float) -> None:
    generator, margin = np.random.default_rng(7), 0.03
    said = set()
    for _ in range(100):
        b = generator.lognormal(0, 0.02, 8)
        a = b * true * generator.lognormal(0, 0.02, 8)
        logs = np.log(a) - np.log(b)
        above = stats.ttest_1samp(logs, -math.log1p(margin), alternative="greater").pvalue
        below = stats.ttest_1samp(logs, math.log1p(margin), alternative="less").pvalue
        found = verdict(paired_ratio(a, b), higher_is_better=True, margin=margin)
        assert (found is Verdict.EQUIVALENT) == (max(above, below) < 0.05)
        said.add(found)
    assert len(said) > 1


def test_given_samples_when_bootstrapped_then_the_interval_is_scipys() -> None:
    samples = np.random.default_rng(1).lognormal(0, 1, 200)
    mine = bootstrap_interval(samples, lambda x: np.quantile(x, 0.9, axis=1), resamples=20_000)
    theirs = stats.bootstrap(
        (samples,), lambda x, axis: np.quantile(x, 0.9, axis=axis), method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), rel=0.03)
