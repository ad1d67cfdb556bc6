"""The search for the highest load that holds, at simulated queues of known capacity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.queues import closed, in_order, poisson, services
from benchmarks.stability import sweep

from penstock.lab.bench.capacity import Evidence, limit_of
from penstock.lab.bench.knee import crossing, knee
from penstock.lab.bench.stability import Stability, Verdict, judge_closed_times, judge_times
from penstock.lab.bench.sweep import Plan, Sweep, search
from penstock.lab.bench.sweep_report import bound_of, said
from penstock.lab.bench.tried import Load, Point

PLAN = Plan()


def steady(served: float, error: float = 0.0, verdict: Verdict = Verdict.STABLE) -> Stability:
    return Stability(verdict, "", served, served, error, 1.0)


def as_offered(load: Load, requests: int, _seconds: float) -> Point:
    """A server without a limit: a closed loop gets 10 answers/s a stream."""
    return Point(load=load, stability=steady(10 * load.value if load.closed else load.value), requests=requests)


@pytest.mark.parametrize("service", ["constant", "exponential", "lognormal:1.0", "pareto:2.2"])
@pytest.mark.parametrize("servers", [4, 16])
def test_a_known_capacity_is_found_within_3_percent_in_12_steps(service: str, servers: int) -> None:
    for seed in range(2):
        found = sweep(service, seed, servers)
        assert found.limit is not None
        assert found.limit.value == pytest.approx(servers, rel=0.03)
        assert len(found.points) <= 12
        assert any(point.load.value >= 0.8 * servers for point in found.held)


def test_intervals_hold_the_capacity_about_as_often_as_they_say() -> None:
    found = [sweep("exponential", seed, 8).limit for seed in range(30)]
    held = sum(limit is not None and limit.low <= 8 <= limit.high for limit in found)
    assert held >= 25  # 28.5 are expected


def test_a_server_without_a_limit_is_said_to_have_none() -> None:
    found = search(replace(PLAN, max_rate=50_000), as_offered)
    assert found.limit is None
    assert said(found) == "No saturation up to 50,000 requests/s: the highest rate allowed holds."


@pytest.mark.parametrize("target", [None, 0.99])
def test_no_rate_above_the_highest_allowed_is_offered_and_one_that_holds_ends_it(target: float | None) -> None:
    def limited(load: Load, requests: int, seconds: float) -> Point:
        served = min(load.value if not load.closed else 20 * load.value, 100.0)
        return Point(load=load, stability=steady(served, 1.0), share=(1.0, 0.002), requests=requests)

    found = search(replace(PLAN, max_rate=10, target=target), limited)
    assert [point.load.value for point in found.of_axis] == [10]
    assert found.ended == "the highest rate allowed holds"


def test_the_steps_are_never_exceeded_and_are_named_as_the_reason() -> None:
    found = search(replace(PLAN, steps=7), as_offered)
    assert (len(found.points), found.ended) == (7, "the steps are used up")
    assert said(found).startswith("No saturation up to")


def test_a_client_that_is_too_late_again_and_again_ends_the_search() -> None:
    def late(load: Load, requests: int, seconds: float) -> Point:
        point = as_offered(load, requests, seconds)
        return replace(point, disturbed=True, invalid=("The client sent late.",)) if load.value > 100 else point

    found = search(PLAN, late)
    assert found.ended == "the client is the limit"
    assert found.limit is None


def test_ctrl_c_keeps_the_points_so_far() -> None:
    def cut(load: Load, requests: int, seconds: float) -> Point:
        if not load.closed:
            raise KeyboardInterrupt
        return as_offered(load, requests, seconds)

    found = search(PLAN, cut)
    assert found.cut
    assert [point.load.value for point in found.points] == [1, 8, 64, 512]


def test_with_an_slo_the_search_finds_where_it_binds_and_not_the_capacity() -> None:
    # Of a single server with exponential service, e^(-(1 - load) t) of the responses take longer than t: 5 % take
    # longer than 6 at a load of 0.5.
    def trial(load: Load, requests: int, _seconds: float) -> Point:
        random = np.random.default_rng([1, round(1e6 * load.value)])
        if load.closed:
            return Point(load=load, stability=steady(1.0, 0.01), requests=requests, response=1.0)
        due = poisson(random, load.value, requests)
        end = in_order(due, services(random, "exponential", requests), 1)
        late = float(np.mean((end - due) > 6.0))
        share = (1 - late, max(1e-3, 3 * (late * (1 - late) / requests) ** 0.5))
        found = judge_times(due, end, np.ones(requests, bool))
        return Point(load=load, stability=found, share=share, requests=requests, response=1.0)

    found = search(replace(PLAN, target=0.95, requests=10_000), trial)
    assert found.limit is not None
    assert found.limit.by_slo > 0.9
    assert found.limit.value == pytest.approx(0.5, rel=0.04)
    assert found.limit.low <= 0.5 <= found.limit.high


def closed_loop(places: int) -> Sweep:
    def trial(load: Load, requests: int, _seconds: float) -> Point:
        served = 10.0 * min(load.value, places)
        share = (1.0 if load.value <= 2 * places else 0.5, 0.001)
        return Point(load=load, stability=steady(served, 0.002 * served), share=share, requests=requests)

    return search(replace(PLAN, axis="concurrency"), trial)


@pytest.mark.parametrize("places", [3, 16, 100])
def test_in_concurrency_the_knee_of_the_throughput_is_found(places: int) -> None:
    found = closed_loop(places)
    assert found.limit is not None
    assert found.limit.value == pytest.approx(0.95 * places, rel=0.05)


@pytest.mark.parametrize("lost", [0.0, 0.4])
def test_a_server_that_one_request_at_a_time_saturates_has_its_knee_there(lost: float) -> None:
    def trial(load: Load, requests: int, _seconds: float) -> Point:
        served = 100.0 if load.value == 1 else 100 * (1 - lost)
        return Point(load=load, stability=steady(served, 1.0), requests=requests)

    found = search(replace(PLAN, axis="concurrency"), trial)
    assert found.limit is not None
    assert (found.limit.low, found.limit.value, found.limit.high) == pytest.approx((1, 1, 1))
    assert found.ended == "the interval is narrow enough"


def test_a_point_that_was_too_short_for_an_answer_does_not_end_the_search() -> None:
    def trial(load: Load, requests: int, _seconds: float) -> Point:
        served = 0.0 if load.value == 1 else 10.0 * min(load.value, 16)
        return Point(load=load, stability=steady(served, 0.002 * served), requests=requests)

    found = search(replace(PLAN, axis="concurrency"), trial)
    assert found.limit is not None
    assert found.limit.value == pytest.approx(0.95 * 16, rel=0.05)


def test_in_concurrency_chance_moves_the_knee_little() -> None:
    def trial(load: Load, requests: int, _seconds: float) -> Point:
        random = np.random.default_rng([seeds[-1], int(load.value)])
        due, end = closed(services(random, "exponential", requests), int(load.value), 40)
        found = judge_closed_times(due, end, np.ones(requests, bool))
        return Point(load=load, stability=found, requests=requests, response=1.0)

    seeds = []
    for seed in range(3):
        seeds.append(seed)
        found = search(replace(PLAN, axis="concurrency"), trial)
        assert found.limit is not None
        assert found.limit.value == pytest.approx(0.95 * 40, rel=0.03)
        assert found.limit.half_width < 0.06
        assert len(found.points) <= 12


def test_a_server_that_batches_turns_gently_and_its_knee_is_found_still() -> None:
    most = 512

    def trial(load: Load, requests: int, _seconds: float) -> Point:
        served = 100 * load.value / (1 + 0.1 * load.value)
        noise = np.random.default_rng(int(load.value)).normal(1, 0.005)
        return Point(load=load, stability=steady(served * noise, 0.005 * served), requests=requests)

    found = search(replace(PLAN, axis="concurrency", max_concurrency=most), trial)
    at = 0.95 * most / (1 + 0.1 * most)  # 95 % of what is served there, over what one alone gets
    assert found.limit is not None
    assert found.limit.value == pytest.approx(at / (1 - 0.1 * at), rel=0.08)
    assert found.limit.low <= at / (1 - 0.1 * at) <= found.limit.high


def test_in_concurrency_an_slo_is_followed_to_where_it_is_missed() -> None:
    def trial(load: Load, requests: int, _seconds: float) -> Point:
        return Point(load=load, stability=steady(1.0, 0.01), share=(1 - load.value / 400, 0.002), requests=requests)

    found = search(replace(PLAN, axis="concurrency", target=0.9), trial)
    assert found.limit is not None
    assert found.limit.value == pytest.approx(40, rel=0.06)


def test_one_wrong_verdict_does_not_lead_away() -> None:
    right = [
        Evidence(load, Verdict.STABLE if load < 100 else Verdict.OVERLOADED, min(load, 100.0), 1.0, load > 100)
        for load in (90, 95, 105, 110)
    ]
    wrong = Evidence(80, Verdict.OVERLOADED, 79.0, 8.0, saturated=False)
    found = limit_of([*right, wrong])
    assert found is not None
    assert found.value == pytest.approx(100, rel=0.02)


def test_more_overloaded_points_make_the_interval_narrower() -> None:
    point = Evidence(110, Verdict.OVERLOADED, 100.0, 2.0, saturated=True)
    one, four = limit_of([point]), limit_of([point] * 4)
    assert one is not None
    assert four is not None
    assert four.half_width < 0.7 * one.half_width


def test_points_that_all_hold_bound_nothing() -> None:
    assert limit_of([Evidence(10, Verdict.STABLE, 10.0, 0.1, saturated=False)]) is None
    assert limit_of([]) is None
    assert knee([(1, 10.0, 0.1, 100), (4, 40.0, 0.1, 100)]) is None
    assert crossing([(1, (1.0, 0.01)), (4, (1.0, 0.01))], 0.9) is None


def test_a_sweep_without_points_says_that_nothing_is_known() -> None:
    assert said(Sweep(PLAN)).startswith("Nothing is known")
    assert bound_of(Sweep(PLAN)) == ("", "")


def test_points_of_too_few_requests_are_no_proof_that_no_load_holds() -> None:
    def hasty(load: Load, requests: int, _seconds: float) -> Point:
        found = replace(steady(min(load.value, 4.0), 0.5, Verdict.INCONCLUSIVE), reason="14 requests are few.")
        return Point(load=load, stability=found, requests=14)

    found = search(replace(PLAN, axis="concurrency", steps=5), hasty)
    assert found.limit is not None
    assert found.inconclusive
    assert "No load was shown to hold, nor to be too much. (14 requests are few.)" in said(found)
