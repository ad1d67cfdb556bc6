"""What parts of a run come to together, beside what one client would have seen of all of it."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.errors import InvalidRequestError
from penstock.lab.bench.histogram import RELATIVE_ERROR
from penstock.lab.bench.metrics import extent, latencies, totals, window, window_between
from penstock.lab.bench.observations import Ending, Observations
from penstock.lab.bench.records import metrics_of
from penstock.lab.bench.slo import Slo
from penstock.lab.bench.spread.figures import Tally, counts_of, tally
from penstock.lab.bench.spread.merge import brief_of, meta_of, together, without_columns
from support.observed import observed

SLO = Slo.parse("ttft:100ms,itl:30ms")


def a_run(seed: int, n: int = 400, **meta: Any) -> Observations:
    """Heavy-tailed, with some failures, in order of ending, tokens in ones and twos to a piece."""
    random = np.random.default_rng(seed)
    gaps = [
        np.concatenate([random.lognormal(-3, 0.5, 1), random.lognormal(-4.5, 0.7, random.integers(0, 12))])
        for _ in range(n)
    ]
    run = observed(
        gaps=gaps, due=np.sort(random.uniform(0, 20, n)).tolist(), meta=meta,
        completion_tokens=[len(each) + random.integers(0, 5) for each in gaps],
        ending=random.choice([Ending.WHOLE] * 9 + [Ending.BROKEN], n), warm_up=np.arange(n) < n // 10,
    )  # fmt: skip
    return together([run], run.meta)


def divided(run: Observations, parts: int) -> list[Observations]:
    return [run.where(run.id % parts == part) for part in range(parts)]


def tallied(run: Observations, parts: list[Observations], slo: Slo | None = SLO) -> Tally:
    found = [tally(part, window(run), float(run.end.max()), slo) for part in parts]
    for part in found[1:]:
        found[0].add(part)
    return found[0]


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 6))
def test_parts_add_up_to_the_whole(seed: int, parts: int) -> None:
    run = a_run(seed, n=100)
    both = tallied(run, [run]), tallied(run, divided(run, parts))
    assert both[0].totals == both[1].totals
    assert both[0].counts == replace(both[1].counts, prompt_extra=both[0].counts.prompt_extra)
    for name, whole in both[0].quantities.items():
        added = both[1].quantities[name]
        assert [each.encode() for each in whole.sections] == [each.encode() for each in added.sections]
        assert (whole.n, whole.min, whole.max) == (added.n, added.min, added.max)
        np.testing.assert_allclose(whole.sums, added.sums)


@pytest.mark.parametrize("meta", [{}, {"stopped": True, "duration": 18.0}, {"cut": True, "wall": 15.0}])
def test_figures_are_those_of_one_client_within_the_histograms_error(meta: dict[str, Any]) -> None:
    runs = [a_run(seed, **meta) for seed in (1, 2)]
    exact = {metric.name: metric for metric in metrics_of(runs, SLO)}
    spread = []
    for run in runs:
        told = json.loads(json.dumps(tallied(run, divided(run, 3)).describe()))  # as it is kept in a file
        spread.append(replace(run, meta=run.meta | {"spread": {"tally": told, "columns": False}}))
    found = {metric.name: metric for metric in metrics_of([without_columns([], each.meta) for each in spread], SLO)}
    assert set(found) == set(exact)
    for name, metric in exact.items():
        told = found[name]
        assert (told.n, told.unit) == (metric.n, metric.unit)
        rounding = (
            1e-3 if metric.unit == "tokens/s" else 1e-6
        )  # each part rounds the tokens that came within the window
        ends = (metric.min, metric.max, metric.mean)
        assert (told.min, told.max, told.mean) == pytest.approx(ends, rel=rounding), name
        for field in ("p50", "p90", "p95", "p99"):
            assert getattr(told, field) == pytest.approx(getattr(metric, field), rel=RELATIVE_ERROR * 1.01, abs=1e-9), (
                name
            )
        if metric.ci is not None and told.ci is not None:  # sections by time here, by number there: alike, not the same
            assert 0.4 < (told.ci.high - told.ci.low + 1e-9) / (metric.ci.high - metric.ci.low + 1e-9) < 2.5, name


def test_another_slo_is_judged_only_where_there_are_columns() -> None:
    run = a_run(4)
    told = {"tally": tallied(run, divided(run, 2)).describe(), "columns": True}
    run.meta["spread"] = told
    other = Slo.parse("e2e:100ms")
    goodput = next(metric.mean for metric in metrics_of([run], other) if metric.name == "goodput")
    assert goodput == pytest.approx(totals(run, latencies(run), other).goodput)
    empty = without_columns([], dict(run.meta))
    assert "goodput" not in {metric.name for metric in metrics_of([empty], other)}
    assert counts_of([empty]).answers == counts_of([run]).answers


def test_one_client_s_run_and_one_of_several_are_no_repeats() -> None:
    run = a_run(4, n=100)
    spread = replace(run, meta=run.meta | {"spread": {"tally": tallied(run, [run]).describe(), "columns": True}})
    with pytest.raises(InvalidRequestError, match="no repeats of one run"):
        metrics_of([run, spread])


def test_observations_of_parts_are_put_together_in_order_of_ending() -> None:
    run = a_run(5)
    assert (np.diff(run.end) >= 0).all()
    again = together(divided(run, 4), run.meta)
    for f in fields(Observations):
        if isinstance(getattr(run, f.name), np.ndarray):
            np.testing.assert_array_equal(getattr(again, f.name), getattr(run, f.name))


def test_a_run_is_as_good_as_its_worst_client_and_ends_with_its_first() -> None:
    client = {"schedule_delay_p99": 0.001, "loop_lag_p99": 0.002, "loop_lag_max": 0.01, "cpu": 1.0, "cpu_wait": 0.1,
              "wall": 10.0, "retried": 1}  # fmt: skip
    meta = {"clock_drift": 0.0, "gave_up": False, "client": client}
    calm = a_run(6, n=20, **meta, wall=10.0, duration=9.0, stopped=True)
    worse = client | {"schedule_delay_p99": 0.5, "cpu": 9.0, "wall": 8.0}
    late = a_run(7, n=20, **meta | {"client": worse, "clock_drift": -2.0}, wall=8.0, duration=7.0, cut=True)
    briefs = [brief_of(each, 3, extent(each), ()) for each in (calm, late)]
    found = meta_of(briefs, 100.0, 5.0, cut=False)
    assert found["client"]["schedule_delay_p99"] == 0.5
    assert found["client"]["cpu"] / found["client"]["wall"] == 9 / 8
    assert (found["wall"], found["duration"], found["cut"], found["clock_drift"]) == (8.0, 7.0, True, -2.0)
    assert (found["whole"], found["client"]["retried"], found["started"]) == (6, 2, 100.0)
    assert window_between(1.0, 30.0, found) == (1.0, 7.0, False)
