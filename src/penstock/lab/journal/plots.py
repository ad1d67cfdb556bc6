"""The plots that `journal.toml` names, drawn from Records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError
from penstock.lab.journal.chart import Chart, Line, Point
from penstock.lab.journal.fields import metric_of, split_metric, value_of
from penstock.lab.journal.regions import matching

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.lab.journal.evidence import Evidence
    from penstock.lab.journal.layout import Journal, PlotSettings

_MOST_LINES = 12


def drawn(evidence: Evidence, plot: PlotSettings) -> str:
    """SVG. A median has whiskers from the smallest to the largest value, a mean its interval.

    Raises InvalidRequestError if no Record has the metric at a number of `x`, or there are too many lines.
    """
    name, statistic = split_metric(plot.metric)
    lines: dict[str, dict[float, Point]] = {}
    units = set()
    for exhibit in sorted(matching(evidence, plot.records), key=lambda each: each.record.created):
        found, x = metric_of(exhibit.record, plot.metric), value_of(exhibit, plot.x)
        if found is None or isinstance(x, bool) or not isinstance(x, int | float):
            continue
        metric, value = found
        low, high = value, value
        if statistic == "p50":
            low, high = metric.min, metric.max
        elif statistic == "mean" and metric.ci is not None:
            low, high = metric.ci.low, metric.ci.high
        units.add(metric.unit)
        by = value_of(exhibit, plot.by)
        lines.setdefault("?" if by is None else str(by), {})[float(x)] = Point(float(x), value, low, high)
    if not lines:
        raise InvalidRequestError(f"The plot {plot.name!r} has no {plot.metric} at any {plot.x}.", param=plot.name)
    if len(units) > 1 or len(lines) > _MOST_LINES:
        raise InvalidRequestError(
            f"The plot {plot.name!r} would have {len(lines)} lines in {' and '.join(sorted(units))}: choose fewer"
            " Records.",
            param=plot.name,
        )
    points = [point for line in lines.values() for point in line.values()]
    return Chart(
        plot.title or f"{name.replace('_', ' ')}, {'median' if statistic == 'p50' else statistic}",
        plot.x.rpartition(".")[2].replace("_", " "),
        units.pop(),
        tuple(Line(by, tuple(line[x] for x in sorted(line))) for by, line in sorted(lines.items())),
        log_x=all(point.x > 0 for point in points),
        log_y=all(point.low > 0 for point in points),
    ).svg()


def plot_path(journal: Journal, plot: PlotSettings) -> Path:
    return journal.plots / f"{plot.name}.svg"
