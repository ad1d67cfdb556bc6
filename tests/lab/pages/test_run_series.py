"""What a run's page draws, held against the plain way to compute it."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.lab.bench.metrics import latencies
from penstock.lab.bench.observations import Ending, Observations
from penstock.lab.pages.run_series import distributions, timeline
from support.observed import observed


def a_run(n: int = 300, seed: int = 3) -> Observations:
    random = np.random.default_rng(seed)
    gaps = [random.exponential(0.05, random.integers(1, 40)).tolist() for _ in range(n)]
    ending = np.where(random.random(n) < 0.1, Ending.TRUNCATED, Ending.WHOLE)
    return observed(gaps=gaps, due=np.sort(random.random(n) * 10).tolist(), ending=ending.tolist())


def test_distributions_of_requests_are_the_sorted_values() -> None:
    run = a_run()
    found = latencies(run)
    made = distributions(run, found)
    np.testing.assert_array_equal(made["ttft"].value, np.sort(found.ttft))
    np.testing.assert_array_equal(made["e2e"].value, np.sort(found.e2e))
    assert made["tpot"].n == np.isfinite(found.tpot).sum()


def test_the_distribution_of_gaps_is_within_a_thousandth() -> None:
    run = a_run()
    found = latencies(run)
    made = distributions(run, found)["itl"]
    ordered = np.sort(found.itl)
    below, above = (
        np.searchsorted(ordered, made.value * (1 + sign / 1024), side="right") / len(ordered) for sign in (-1, 1)
    )
    assert (below <= made.share + 1e-12).all()
    assert (above >= made.share - 1e-12).all()
    assert (made.n, made.share[-1]) == (len(ordered), 1.0)
    assert len(made.value) > 100


def test_a_timeline_holds_every_token_answer_and_failure() -> None:
    run = a_run()
    line = timeline(run)
    assert line is not None
    end = float(run.end.max())
    seconds = (
        np.minimum(np.arange(1, len(line.middle) + 1) * line.width, end) - np.arange(len(line.middle)) * line.width
    )
    assert (line.output_rate * seconds).sum() == pytest.approx(run.completion_tokens.sum())
    assert (line.answer_rate * seconds).sum() == pytest.approx((run.ending == Ending.WHOLE).sum())
    assert (line.error_rate * seconds).sum() == pytest.approx((run.ending != Ending.WHOLE).sum())
    assert (line.in_flight * seconds).sum() == pytest.approx((run.end - run.sent).sum())
    assert len(line.middle) <= 120


def test_a_windows_percentiles_are_of_the_requests_due_in_it() -> None:
    run = a_run()
    line = timeline(run)
    assert line is not None
    whole = run.ending == Ending.WHOLE
    for at in (0, 7, 50):
        inside = whole & (run.due >= at * line.width) & (run.due < (at + 1) * line.width)
        ttft = (run.first_text - run.due)[inside]
        if len(ttft):
            assert line.ttft_p99[at] == pytest.approx(np.percentile(ttft, 99))
        else:
            assert np.isnan(line.ttft_p50[at])


def test_a_run_in_which_nothing_was_sent_has_no_timeline() -> None:
    assert timeline(observed(gaps=[])) is None
    never = observed(gaps=[[]], due=[0.0], sent=[np.nan], end=[np.nan], ending=[Ending.CONNECT])
    assert timeline(never) is None
    assert distributions(never, latencies(never)) == {}
