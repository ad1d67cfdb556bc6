"""Distributions of lengths, from their texts to their draws."""

from __future__ import annotations

from random import Random
from statistics import quantiles

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.errors import InvalidRequestError
from penstock.lab.bench.workloads.lengths import parse_distribution, tokens

_MANY = 20_000


def _drawn(text: str, count: int = _MANY) -> list[float]:
    distribution, random = parse_distribution(text, "input_tokens"), Random(1)
    return sorted(distribution.draw(random) for _ in range(count))


def _share(drawn: list[float], value: float) -> float:
    return sum(one <= value for one in drawn) / len(drawn)


def test_given_measured_quantiles_then_draws_have_them() -> None:
    drawn = _drawn("p50=100,p90=400,p99=2000,max=8000")
    for share, value in ((0.5, 100), (0.9, 400), (0.99, 2000)):
        assert _share(drawn, value) == pytest.approx(share, abs=0.012)
    assert 1 <= drawn[0] < drawn[-1] <= 8000
    assert drawn[-1] > 4000


def test_given_a_median_and_a_p99_then_a_lognormal_has_both() -> None:
    drawn = _drawn("lognormal:median=500,p99=4000")
    assert _share(drawn, 500) == pytest.approx(0.5, abs=0.012)
    assert _share(drawn, 4000) == pytest.approx(0.99, abs=0.003)


def test_given_a_lognormal_with_ends_then_it_is_truncated_and_not_piled_up_there() -> None:
    drawn = _drawn("lognormal:median=500,sigma=1,min=100,max=1000")
    assert 100 <= drawn[0] < drawn[-1] <= 1000
    assert drawn.count(1000.0) + drawn.count(100.0) < 10
    whole = [one for one in _drawn("lognormal:median=500,sigma=1", 4 * _MANY) if 100 <= one <= 1000]
    assert quantiles(drawn)[1] == pytest.approx(quantiles(whole)[1], rel=0.03)


def test_given_a_uniform_range_then_both_ends_are_drawn_and_each_value_as_often() -> None:
    drawn = _drawn("3-6")
    assert [drawn.count(value) / len(drawn) for value in (3, 4, 5, 6)] == pytest.approx([0.25] * 4, abs=0.015)


def test_given_an_exponential_then_its_mean_is_the_one_asked_for() -> None:
    assert sum(_drawn("exponential:mean=3")) / _MANY == pytest.approx(3, rel=0.03)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "is no distribution"),
        ("lots", "is no distribution"),
        ("-5", "is no distribution"),
        ("900-100", "from its smaller number"),
        ("1e99", "is no distribution"),
        ("1.2.3", "is no number"),
        ("99999999999", "is no number from 0"),
        ("lognorml:median=3,sigma=1", "Did you mean 'lognormal'?"),
        ("lognormal:median=3", "either sigma or p99"),
        ("lognormal:median=3,sigma=1,p99=9", "either sigma or p99"),
        ("lognormal:median=300,p99=9", "under its median"),
        ("lognormal:median=3,sigma=1,min=9,max=4", "min under max"),
        ("lognormal:mediam=3,sigma=1", "Did you mean 'median'?"),
        ("lognormal:median=nan,sigma=1", "no number"),
        ("exponential:mean=0", "mean over 0"),
        ("p50=100", "and max"),
        ("p50=100,p90=50,max=200", "never fall"),
        ("p100=100,max=200", "is no quantile"),
        ("p50=x,max=200", "is no number"),
    ],
)
def test_given_what_is_no_distribution_then_it_is_refused_and_named(text: str, hint: str) -> None:
    with pytest.raises(InvalidRequestError, match=r".") as refused:
        parse_distribution(text, "input_tokens")
    assert hint in refused.value.message
    assert refused.value.param == "input_tokens"


@given(
    st.one_of(
        st.integers(0, 100_000).map(str),
        st.tuples(st.integers(0, 1000), st.integers(1000, 9000)).map(lambda ends: f"{ends[0]}-{ends[1]}"),
        st.tuples(st.integers(1, 5000), st.floats(0, 3)).map(lambda p: f"lognormal:median={p[0]},sigma={p[1]:.3f}"),
        st.lists(st.integers(1, 10_000), min_size=3, max_size=3).map(
            lambda v: "p50={},p90={},max={}".format(*sorted(v))
        ),
    ),
    st.integers(),
)
def test_given_any_distribution_then_its_text_is_one_of_it_and_tokens_are_whole_and_over_0(
    text: str, seed: int
) -> None:
    distribution = parse_distribution(text, "turns")
    again = parse_distribution(str(distribution), "turns")
    drawn = [tokens(distribution, Random(seed + i)) for i in range(5)]
    assert drawn == pytest.approx([tokens(again, Random(seed + i)) for i in range(5)], rel=1e-3, abs=1)
    assert all(isinstance(one, int) and one >= 1 for one in drawn)


@given(st.text(max_size=40))
def test_given_any_text_then_it_is_read_or_refused(text: str) -> None:
    try:
        drawn = parse_distribution(text, "turns").draw(Random(0))
    except InvalidRequestError as error:
        refused = error.param
    else:
        refused = "turns"
        assert drawn >= 0
    assert refused == "turns"
