"""Arrival processes: their rates, their spread, and what comes of them."""

from __future__ import annotations

from itertools import islice, pairwise
from statistics import fmean, pvariance

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.errors import InvalidRequestError
from penstock.lab.bench.arrivals import ClosedLoop, Gamma, Stage, Stages, schedule
from penstock.lab.bench.planned import Planned


def _intervals(times: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_given_gamma_arrivals_then_rate_and_burstiness_are_those_asked_for(burstiness: float) -> None:
    intervals = _intervals(list(islice(Gamma(20, burstiness).times(3), 40_001)))
    mean = fmean(intervals)
    assert mean == pytest.approx(1 / 20, rel=0.05)
    assert pvariance(intervals) / mean**2 == pytest.approx(burstiness, rel=0.1)


def test_given_another_seed_then_other_times_and_given_the_same_then_the_same() -> None:
    first, again, other = (list(islice(Gamma(5).times(seed), 50)) for seed in (1, 1, 2))
    assert first == again != other


def test_given_a_constant_ramp_then_each_request_comes_when_it_is_expected() -> None:
    # 0 to 10/s in 10 s: n are expected after sqrt(2 n) seconds, 50 in all
    times = list(Stages.ramp(0, 10, 10, burstiness=0).times(0))
    assert times == pytest.approx([(2 * n) ** 0.5 for n in range(50)])


def test_given_poisson_stages_then_each_has_its_own_rate_and_is_poisson() -> None:
    stages = Stages.parse("50:100,200:100,0:50,10-90:100")
    counts = [[0] * 35 for _ in range(100)]
    for seed, windows in enumerate(counts):
        for at in stages.times(seed):
            windows[int(at // 10)] += 1
    means = [fmean(column) for column in zip(*counts, strict=True)]
    expected = [500.0] * 10 + [2000.0] * 10 + [0.0] * 5 + [140.0 + 80 * i for i in range(10)]
    assert means == pytest.approx(expected, rel=0.02)
    # Counts of a Poisson process vary as much as they are, in ramps too.
    for column, mean in list(zip(zip(*counts, strict=True), expected, strict=True))[30:]:
        assert 0.6 < pvariance(column) / mean < 1.6


def test_given_stages_then_nothing_comes_after_them() -> None:
    stages = Stages.parse("5:30,5-20:60")
    assert stages.rate == pytest.approx((150 + 750) / 90)
    assert max(stages.times(1)) < 90
    requests = list(schedule(iter([Planned("x", 1)] * 10_000), stages, 1))
    assert 700 < len(requests) < 1100


@given(
    st.lists(
        st.tuples(st.floats(0, 50), st.floats(0, 50), st.floats(0.1, 20)).map(lambda parts: Stage(*parts)),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([0.0, 1.0, 4.0]),
)
def test_given_any_stages_then_times_never_fall_nor_pass_the_end(parts: list[Stage], burstiness: float) -> None:
    if not sum(stage.expected for stage in parts):
        with pytest.raises(InvalidRequestError):
            Stages(tuple(parts), burstiness)
        return
    stages = Stages(tuple(parts), burstiness)
    times = list(stages.times(7))
    assert times == sorted(times)
    assert not times or (times[0] >= 0 and times[-1] <= stages.seconds + 1e-9)
    if burstiness == 0:
        assert len(times) == pytest.approx(sum(stage.expected for stage in parts), abs=1.001)


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0.1, 1000), st.floats(0, 1))
def test_given_a_stage_then_when_inverts_what_is_expected(
    start: float, end: float, seconds: float, share: float
) -> None:
    stage = Stage(start, end, seconds)
    at = share * seconds
    expected = start * at + (end - start) / seconds * at**2 / 2
    if expected > 1e-9:
        when = stage.when(expected)
        assert start * when + (end - start) / seconds * when**2 / 2 == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("text", ["", "5", "5:", "5:0", "a:3", "5:30,", "-5:30", "5-:30", "0:30", "1.2.3:4", "1e9:3"])
def test_given_what_are_no_stages_then_they_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        Stages.parse(text)
    assert refused.value.param in ("steps", "rate")


def test_given_stages_then_their_description_can_be_read_again() -> None:
    stages = Stages.parse("5:30, 0.5-20:60.5", 2.0)
    assert Stages.parse(stages.describe()["stages"], 2.0) == stages


def test_given_a_closed_loop_with_a_ramp_then_its_first_round_is_spread_over_it() -> None:
    due = [one.due for one in schedule(iter([Planned("x", 1)] * 6), ClosedLoop(4, ramp=8.0), 0)]
    assert due == [0.0, 2.0, 4.0, 6.0, None, None]
    assert [one.due for one in schedule(iter([Planned("x", 1)] * 3), ClosedLoop(4), 0)] == [None] * 3


def test_given_requests_with_times_of_their_own_then_they_keep_them() -> None:
    requests = [Planned("x", 1, due=3.0), Planned("x", 1, due=4.0)]
    assert [one.due for one in schedule(iter(requests), Gamma(100), 0)] == [3.0, 4.0]
