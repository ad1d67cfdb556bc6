"""What the pages say of a run, a sweep and a comparison."""

from __future__ import annotations

from dataclasses import replace

import pytest

from penstock.lab.bench.records import flaws_of, metrics_of
from penstock.lab.pages.compare_page import compare_page
from penstock.lab.pages.document import Callout, Grid, Views
from penstock.lab.pages.estimates import Estimate
from penstock.lab.pages.plots import MOST_POINTS, Axis, Plot, Series
from penstock.lab.pages.render_markdown import render
from penstock.lab.pages.run_page import RunPage, run_page
from penstock.lab.pages.run_plots import time_grid
from penstock.lab.pages.sweep_page import sweep_page
from penstock.lab.pages.units import between, figure
from support.report_pages import SLO, near, some_comparison, some_run, some_sweep


def page_of(*runs, slo=SLO) -> RunPage:
    return RunPage(title="A run", metrics=metrics_of(runs, slo), runs=runs, flaws=flaws_of(runs), slo=slo)


def test_a_runs_page_says_its_figures_with_their_intervals() -> None:
    page = page_of(some_run(seed=1), some_run(seed=2))
    said = render(run_page(page))
    ttft = next(metric for metric in page.metrics if metric.name == "ttft")
    interval = ttft.intervals["p50"]
    assert (
        f"| Time to first token, p50 | {figure(ttft.p50, 's')} | {between(interval.low, interval.high, 's')} |" in said
    )
    assert "Valid: the client was on time" in said
    assert "| finished |" in said  # beside the server's own count


def test_an_invalid_run_is_called_so_before_anything_else() -> None:
    run = some_run()
    run.meta["invalid"] = ["The client sent late."]
    document = run_page(page_of(run))
    assert document.lead[0] == Callout(
        "Invalid: these figures are not to be quoted.", "bad", ("The client sent late.",)
    )
    cut = some_run()
    cut.meta["cut"] = True
    assert run_page(page_of(cut)).lead[0].text.startswith("Cut short")


def test_failures_are_counted_by_kind_with_what_was_said() -> None:
    said = render(run_page(page_of(some_run(failing="the pipe *burst*"))))
    assert "| truncated | 8 | 10 % | the stream stopped before its end |" in said
    assert "the pipe *burst*" in said
    assert "Valid, but 10 % of the requests failed" in said


def test_a_run_of_failures_alone_still_has_a_page() -> None:
    run = some_run(8)
    run.ending[:] = 3
    assert "| timeout | 8 | 100 % |" in render(run_page(page_of(run)))


def test_a_page_without_observations_has_the_figures() -> None:
    page = replace(page_of(some_run()), runs=())
    said = render(run_page(page))
    assert "The record names no flaw" in said
    assert "Time to first token" in said


def test_many_repeats_are_drawn_up_to_a_bound_that_is_told() -> None:
    document = run_page(page_of(*[some_run(12, seed) for seed in range(11)]))
    views = next(block for section in document.sections for block in section.blocks if isinstance(block, Views))
    assert len(views.views) == 8
    assert "The first 8 of 11 repeats are drawn." in render(document)


def test_a_sweep_says_where_it_saturates_and_what_held_there() -> None:
    said = render(sweep_page(some_sweep(near(10.4, "requests/s"))))
    assert "| Saturation | 10.4 requests/s | 9.88 to 10.9 requests/s |" in said
    assert "| Output tokens there | 1,000 tokens/s |" in said
    assert "| 16 requests/s | **OVERLOADED** |" in said
    assert "no (40 %)" in said


def test_a_sweep_without_saturation_has_no_such_figure_and_no_latency_past_capacity() -> None:
    document = sweep_page(some_sweep())
    assert "| Saturation |" not in render(document)
    grid = next(block for block in document.sections[0].blocks if isinstance(block, Grid))
    latency = next(plot for plot in grid.blocks if isinstance(plot, Plot) and plot.title.startswith("TTFT"))
    assert sorted(latency.series[0].x) == [200.0, 800.0, 1000.0]


def test_a_comparison_says_ratio_verdict_cost_and_what_differs() -> None:
    document = compare_page(some_comparison())
    said = render(document)
    assert "| alpha / beta | output throughput | 2 (1.90 to 2.10) | **faster** | 4 |" in said
    assert "| gamma | not run: it needs a GPU |" in said
    assert "EUR per million output tokens" in said
    settings = next(section for section in document.sections if section.title == "Settings")
    table = next(block for block in settings.blocks if hasattr(block, "rows"))
    assert {row[0].text: row[0].tone for row in table.rows} == {"prefix cache": "warn", "slots": "plain"}


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.01234, "s", "12.3 ms"), (0.99996, "s", "1.00 s"), (125.0, "s", "2.08 min"), (0.0, "s", "0 s"),
        (4.2e-7, "s", "420 ns"), (1234.5, "tokens/s", "1,234 tokens/s"), (0.42, "share", "42 %"), (1.066, "1", "1.07"),
        (3.2e9, "bytes", "3.20 GB"), (float("nan"), "s", "–"), (float("inf"), "1", "∞"), (1.5e-7, "1", "1.50e-07"),
    ],
)  # fmt: skip
def test_figures_are_written_as_people_read_them(value: float, unit: str, shown: str) -> None:
    assert figure(value, unit) == shown


def test_an_estimate_is_shown_with_its_interval_and_kept_exactly() -> None:
    cell = Estimate(0.0123456789, "s", 0.011, 0.013).cell()
    assert (cell.text, cell.below, cell.sort, cell.title) == ("12.3 ms", "11 to 13 ms", 0.0123456789, "0.0123456789 s")


def test_a_plot_of_too_many_points_is_refused() -> None:
    series = Series(name="x", x=range(MOST_POINTS + 1), y=range(MOST_POINTS + 1))
    with pytest.raises(ValueError, match="thin them first"):
        Plot(title="x", x=Axis(label="x"), y=Axis(label="y"), series=(series,))


def test_the_servers_readings_are_laid_over_the_run_and_thinned_openly() -> None:
    run = some_run()
    run.warm_up[:5] = True
    run.meta["server"] |= {
        "times": [at / 100 for at in range(900)],
        "series": {"running": [at % 7 for at in range(900)], "gpu_power": [200.0] * 900},
    }
    plots = {plot.title: plot for plot in time_grid(run, SLO).blocks if isinstance(plot, Plot)}
    under_way = plots["Requests under way"]
    assert [series.name for series in under_way.series] == ["client: in flight", "server: running"]
    assert under_way.notes == ("400 of 900 readings, chosen to keep the shape (LTTB)",)
    assert [mark.label for mark in under_way.marks] == ["warm-up over"]
    assert set(plots["gpu power"].series[0].y) == {200.0}


def test_a_series_of_uneven_columns_or_half_an_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="2 x and 1 y"):
        Series(name="s", x=[1, 2], y=[1])
    with pytest.raises(ValueError, match="half an interval"):
        Series(name="s", x=[1], y=[1], low=[0])
    with pytest.raises(ValueError, match="right axis"):
        Plot(title="p", x=Axis(label="x"), y=Axis(label="y"), series=(Series(name="s", x=[1], y=[1], right=True),))
