"""The plots of a run's page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.lab.bench.metrics import latencies, output_tokens, prompt_tokens
from penstock.lab.bench.observations import Ending
from penstock.lab.pages.document import Grid, Views
from penstock.lab.pages.plots import Axis, Mark, Plot, Series
from penstock.lab.pages.run_series import distributions, timeline
from penstock.lab.pages.thin import histogram, lttb, sample
from penstock.lab.pages.units import figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from penstock.lab.bench.observations import Observations
    from penstock.lab.bench.slo import Slo
    from penstock.lab.pages.run_series import Distribution, Timeline

_TITLES = {
    "ttft": "Time to first token",
    "tpot": "Time per output token",
    "itl": "Inter-token latency",
    "e2e": "End to end",
}
_MOST_DRAWN = 1200  # requests of a scatter
_MOST_READ = 400  # of the server's readings
_SERVER = {  # what is read of a server: its words, and whether it is counted in requests
    "running": ("server: running", True),
    "waiting": ("server: waiting", True),
    "kv_usage": ("server: KV memory", False),
}


def percentile(values: NDArray[np.floating], percent: float) -> float:
    """NaN of nothing."""
    finite = values[np.isfinite(values)]
    return float(np.percentile(finite, percent)) if len(finite) else float("nan")


def mean(values: NDArray[np.floating]) -> float:
    """NaN of nothing."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def latency_grid(runs: Sequence[Observations], slo: Slo | None) -> Grid:
    """One place a quantity, with a curve a repeat: distribution, tail and histogram."""
    found = [latencies(seen) for seen in runs]
    made = [distributions(seen, each) for seen, each in zip(runs, found, strict=True)]
    bounds: dict[str, float] = dict(slo.bounds) if slo else {}
    places = []
    for name, title in _TITLES.items():
        mine = [each[name] for each in made if name in each]
        if mine:
            columns = {"ttft": [f.ttft for f in found], "tpot": [f.tpot for f in found], "e2e": [f.e2e for f in found]}
            places.append(_latency_views(title, mine, columns.get(name, []), bounds.get(name)))
    return Grid(tuple(places))


def _latency_views(
    title: str, made: Sequence[Distribution], columns: Sequence[NDArray[Any]], bound: float | None
) -> Views:
    marks = () if bound is None else (Mark(at=bound, label=f"SLO {figure(bound, 's')}", tone="warn"),)
    # A few stragglers would press all else against the axis.
    largest, middle = (max(np.interp(share, each.share, each.value) for each in made) for share in (1.0, 0.5))
    x = Axis(label=title.lower(), unit="s", log=bool(middle > 0 and largest > 20 * middle))

    def curves(share: Any) -> tuple[Series, ...]:
        return tuple(
            Series(
                name=f"repeat {at + 1}" if len(made) > 1 else "requests", kind="step", x=each.value.tolist(),
                y=share(each).tolist(), note=each.note,
            )
            for at, each in enumerate(made)
        )  # fmt: skip

    views = [
        (
            "Distribution",
            Plot(title=title, x=x, y=Axis(label="share at or below", unit="share", from_zero=True), marks=marks,
                 series=curves(lambda each: each.share)),
        ),
        (
            "Tail",
            Plot(title=f"{title}: the tail", x=x, y=Axis(label="share above", unit="share", log=True), marks=marks,
                 caption="How many take longer: the percentiles from p90 on, spread out.",
                 series=curves(lambda each: np.maximum(1 - each.share, 0.0))),
        ),
    ]  # fmt: skip
    values = np.concatenate(columns) if columns else np.empty(0)
    if np.isfinite(values).any():
        edges, share = histogram(values)
        bars = Series(
            name="all repeats" if len(made) > 1 else "requests", kind="bars", x=edges[:-1].tolist(),
            x_end=edges[1:].tolist(), y=share.tolist(),
        )  # fmt: skip
        is_log = bool(edges[0] > 0 and edges[-1] > 10 * edges[0])
        drawn = Plot(
            title=f"{title}: histogram", x=Axis(label=title.lower(), unit="s", log=is_log),
            y=Axis(label="share", unit="share", from_zero=True), series=(bars,), marks=marks,
        )  # fmt: skip
        views.append(("Histogram", drawn))
    return Views(title, tuple(views))


def time_grid(seen: Observations, slo: Slo | None) -> Grid:
    """One run over time, with the server's own readings over it."""
    line = timeline(seen)
    if line is None:
        return Grid(())
    times = line.middle.tolist()
    x = Axis(label="since the start", unit="s", from_zero=True)
    marks = _moments(seen)
    note = f"In windows of {figure(line.width, 's')}."
    running, memory = _server_series(seen)
    ttft_bound = next((bound for name, bound in slo.bounds if name == "ttft"), None) if slo else None
    plots = [
        Plot(
            title="Output", x=x, y=Axis(label="output", unit="tokens/s", from_zero=True), marks=marks, caption=note,
            series=(Series(name="output tokens/s", x=times, y=line.output_rate.tolist()), *memory),
            right=Axis(label="server", unit="share", from_zero=True) if memory else None,
        ),
        Plot(
            title="Requests under way", x=x, y=Axis(label="requests", from_zero=True), marks=marks, caption=note,
            series=(Series(name="client: in flight", x=times, y=line.in_flight.tolist()), *running),
        ),
        Plot(
            title="Time to first token, as requests were due", x=x, y=Axis(label="TTFT", unit="s", from_zero=True),
            marks=(*marks, *_bound_mark(ttft_bound)), caption=f"{note} A trend here is a queue that grows.",
            series=(
                Series(name="p50", x=times, y=line.ttft_p50.tolist()),
                Series(name="p99", x=times, y=line.ttft_p99.tolist()),
            ),
        ),
        Plot(
            title="Answers", x=x, y=Axis(label="answers", unit="requests/s", from_zero=True), marks=marks, caption=note,
            series=_answers(line, times),
        ),
    ]  # fmt: skip
    # The units of what else is read differ: a plot for each.
    plots += [
        Plot(title=series.name, x=x, y=Axis(label="as the exporter tells", from_zero=True), series=(series,))
        for series in _gpu_series(seen)
    ]
    return Grid(tuple(plots))


def _answers(line: Timeline, times: list[float]) -> tuple[Series, ...]:
    answers = Series(name="answered", x=times, y=line.answer_rate.tolist())
    if not line.error_rate.any():
        return (answers,)
    return (answers, Series(name="failed", x=times, y=line.error_rate.tolist(), dashed=True, tone="bad"))


def _moments(seen: Observations) -> tuple[Mark, ...]:
    """Where the warm-up ends, and where no more is sent."""
    marks = []
    if seen.warm_up.any() and (~seen.warm_up).any():
        marks.append(Mark(at=float(seen.due[~seen.warm_up].min()), label="warm-up over"))
    if seen.meta.get("stopped") and seen.meta.get("duration"):
        marks.append(Mark(at=float(seen.meta["duration"]), label="sending over"))
    return tuple(marks)


def _bound_mark(bound: float | None) -> tuple[Mark, ...]:
    return () if bound is None else (Mark(at=bound, label=f"SLO {figure(bound, 's')}", across="y", tone="warn"),)


def _readings(seen: Observations, name: str) -> tuple[list[float], list[float], str]:
    """Times and values of one of the server's own series, thinned."""
    told = seen.meta.get("server") or {}
    pairs = [
        (float(at), float(value))
        for at, value in zip(told.get("times", ()), told.get("series", {}).get(name, ()), strict=False)
        if value is not None and at >= 0
    ]
    if not pairs:
        return [], [], ""
    times, values = (np.array(column) for column in zip(*pairs, strict=True))
    kept = lttb(times, values, _MOST_READ)
    note = "" if len(kept) == len(times) else f"{len(kept)} of {len(times):,} readings, chosen to keep the shape (LTTB)"
    return times[kept].tolist(), values[kept].tolist(), note


def _server_series(seen: Observations) -> tuple[tuple[Series, ...], tuple[Series, ...]]:
    """Of requests, and of memory, for an axis on the right."""
    counts, memory = [], []
    for name, (words, is_count) in _SERVER.items():
        times, values, note = _readings(seen, name)
        if times and is_count:
            counts.append(Series(name=words, x=times, y=values, note=note, dashed=True))
        elif times:
            memory.append(Series(name=words, x=times, y=values, note=note, right=True, colour=4))
    return tuple(counts), tuple(memory)


def _gpu_series(seen: Observations) -> tuple[Series, ...]:
    told = (seen.meta.get("server") or {}).get("series", {})
    series = []
    for name in told:
        if name not in _SERVER:
            times, values, note = _readings(seen, name)
            if times:
                series.append(Series(name=str(name).replace("_", " "), x=times, y=values, note=note))
    return tuple(series)


def request_grid(seen: Observations, slo: Slo | None) -> Grid:
    """A point a request: when, and how long, and how much."""
    whole = (seen.ending == Ending.WHOLE) & ~seen.warm_up
    due, ttft, e2e = seen.due[whole], (seen.first_text - seen.due)[whole], (seen.last_text - seen.due)[whole]
    tokens, prompts = output_tokens(seen)[whole], prompt_tokens(seen)[whole]
    ids = seen.id[whole]
    bound = next((each for name, each in slo.bounds if name == "ttft"), None) if slo else None
    labels = [
        f"request {number}: {prompt:,} in, {out:,} out"
        for number, prompt, out in zip(ids.tolist(), prompts.tolist(), tokens.tolist(), strict=True)
    ] if len(ids) <= _MOST_DRAWN else None  # fmt: skip

    def dots(name: str, x: NDArray[Any], y: NDArray[Any]) -> Series:
        kept, note = sample(y.astype(np.float64), _MOST_DRAWN)
        said = [labels[i] for i in kept] if labels else [
            f"request {ids[i]}: {prompts[i]:,} in, {tokens[i]:,} out" for i in kept
        ]  # fmt: skip
        return Series(name=name, kind="points", x=x[kept].tolist(), y=y[kept].tolist(), labels=said, note=note)

    first = [dots("answered", due, ttft)]
    failed = ~seen.warm_up & (seen.ending != Ending.WHOLE)
    if failed.any():
        lasted = np.where(np.isnan(seen.end), seen.due, seen.end) - seen.due
        kept, note = sample(lasted[failed], _MOST_DRAWN)
        kinds = [Ending(ending).name.lower() for ending in seen.ending[failed][kept].tolist()]
        first.append(
            Series(name="failed, after", kind="points", tone="bad", x=seen.due[failed][kept].tolist(),
                   y=lasted[failed][kept].tolist(), labels=kinds, note=note)
        )  # fmt: skip
    plots = [
        Plot(title="Time to first token of each request", x=Axis(label="due", unit="s"), series=tuple(first),
             y=Axis(label="TTFT", unit="s"), marks=_bound_mark(bound)),
        Plot(title="Prompt length and time to first token", x=Axis(label="prompt", unit="tokens"),
             y=Axis(label="TTFT", unit="s"), series=(dots("answered", prompts.astype(np.float64), ttft),)),
        Plot(title="Answer length and end to end", x=Axis(label="answer", unit="tokens"),
             y=Axis(label="E2E", unit="s"), series=(dots("answered", tokens.astype(np.float64), e2e),)),
    ]  # fmt: skip
    return Grid(tuple(plots))
