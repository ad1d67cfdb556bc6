"""Verdicts: right as often as they say, and blind to drift."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.errors import InvalidRequestError
from penstock.lab.statistics import Ratio, Verdict, bootstrap_interval, paired_ratio, shift, unpaired_ratio, verdict

LAGS = [-1, 1] * 4  # ABBA, four times


def _runs(seed: int, true: float, *, drift: float = 0.0, noise: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """Eight pairs in the order ABBA; each slot is slower than the one before."""
    generator = np.random.default_rng(seed)
    slots = np.exp(-drift * np.arange(16)) * generator.lognormal(0, noise, 16)
    is_a = np.resize([True, False, False, True], 16)
    return slots[is_a] * true, slots[~is_a]


def _share(verdicts: Counter[Verdict], *wanted: Verdict) -> float:
    return sum(verdicts[each] for each in wanted) / verdicts.total()


@pytest.mark.parametrize("drift", [0.0, 0.01, 0.1])
def test_given_equals_when_judged_often_then_a_difference_is_claimed_in_at_most_one_case_of_twenty(
    drift: float,
) -> None:
    said = Counter(
        verdict(paired_ratio(*_runs(seed, 1.0, drift=drift, noise=0.05), lag=LAGS), higher_is_better=True)
        for seed in range(1000)
    )
    assert _share(said, Verdict.FASTER, Verdict.SLOWER) < 0.07  # 5 % and three standard errors of the count


def test_given_a_ratio_just_past_the_margin_when_judged_often_then_equivalence_is_seldom_claimed() -> None:
    said = Counter(verdict(paired_ratio(*_runs(seed, 1.031), lag=LAGS), higher_is_better=True) for seed in range(500))
    assert _share(said, Verdict.EQUIVALENT) < 0.08


@pytest.mark.parametrize(("higher", "expected"), [(True, Verdict.FASTER), (False, Verdict.SLOWER)])
def test_given_a_tenth_more_under_drift_when_judged_then_it_is_found(higher: bool, expected: Verdict) -> None:
    ratio = paired_ratio(*_runs(3, 1.1, drift=0.05), lag=LAGS)
    assert verdict(ratio, higher_is_better=higher) is expected
    assert ratio.drift == pytest.approx(-0.05, abs=0.02)


def test_given_pure_linear_drift_when_the_order_is_balanced_then_the_ratio_is_exact() -> None:
    a, b = _runs(0, 1.25, drift=0.2, noise=0.0)
    ratio = paired_ratio(a, b, lag=LAGS)
    assert ratio.estimate == pytest.approx(1.25)
    assert ratio.error == pytest.approx(0, abs=1e-12)


def test_given_a_tiny_certain_difference_when_judged_then_it_is_equivalence() -> None:
    b = np.linspace(1, 1.2, 10)
    assert verdict(paired_ratio(b * 1.01, b), higher_is_better=True) is Verdict.EQUIVALENT
    assert verdict(paired_ratio(b * 1.01, b), higher_is_better=True, margin=0.005) is Verdict.FASTER


def test_given_one_pair_when_judged_then_nothing_is_claimed() -> None:
    ratio = paired_ratio([2.0], [1.0])
    assert (ratio.estimate, ratio.interval, ratio.p_value) == (pytest.approx(2), None, 1.0)
    assert verdict(ratio, higher_is_better=True) is Verdict.INCONCLUSIVE


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)), min_size=2, max_size=12))
def test_given_any_pairs_when_turned_round_then_the_ratio_is_turned_round(pairs: list[tuple[float, float]]) -> None:
    a, b = zip(*pairs, strict=True)
    one, other = paired_ratio(a, b), paired_ratio(b, a)
    assert one.log == pytest.approx(-other.log)
    assert one.p_value == pytest.approx(other.p_value, abs=1e-9)
    opposite = {Verdict.FASTER: Verdict.SLOWER, Verdict.SLOWER: Verdict.FASTER}
    mine, theirs = (verdict(ratio, higher_is_better=True) for ratio in (one, other))
    assert theirs is opposite.get(mine, mine)


def test_given_the_bootstrap_when_beside_t_then_they_agree_roughly() -> None:
    ratio = paired_ratio(*_runs(5, 1.2))
    assert ratio.interval is not None
    assert ratio.bootstrap is not None
    assert ratio.bootstrap.low == pytest.approx(ratio.interval.low, rel=0.01)
    assert ratio.bootstrap.high == pytest.approx(ratio.interval.high, rel=0.01)
    assert paired_ratio(*_runs(5, 1.2)).bootstrap == ratio.bootstrap


def test_given_samples_not_in_pairs_when_compared_then_the_ratio_is_of_geometric_means() -> None:
    ratio = unpaired_ratio([2.0, 8.0], [1.0, 1.0, 1.0])
    assert ratio.estimate == pytest.approx(4)
    assert unpaired_ratio([2.0], [1.0, 1.0]).interval is None
    assert unpaired_ratio([2.0, 2.0], [1.0, 1.0]).p_value == 0.0


def test_given_one_wild_run_when_shifted_then_it_hardly_matters() -> None:
    assert shift([11.0, 12.0, 13.0, 900.0], [1.0, 2.0, 3.0, 4.0]) == pytest.approx(10)


def test_given_an_enormous_error_when_an_interval_is_asked_then_it_is_finite() -> None:
    interval = Ratio(2, 0.0, 1e9, 1.0, None).interval
    assert interval is not None
    assert interval.low == 0
    assert math.isfinite(interval.high)


@pytest.mark.parametrize(
    ("a", "b"), [([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([1.0], [float("nan")]), ([], []), ([1.0], [-1.0])]
)
def test_given_figures_no_ratio_can_be_of_when_compared_then_it_says_so(a: list[float], b: list[float]) -> None:
    with pytest.raises(InvalidRequestError):
        paired_ratio(a, b)


def test_given_bad_parameters_when_judged_then_it_says_so() -> None:
    with pytest.raises(InvalidRequestError, match="margin"):
        verdict(paired_ratio([1.0, 2.0], [1.0, 2.0]), higher_is_better=True, margin=0)
    with pytest.raises(InvalidRequestError, match="samples"):
        bootstrap_interval([], np.mean)
