"""What a run's page draws of its observations: distributions, and how it went over time. Bounded, whatever the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from penstock.lab.bench.gaps import blocks
from penstock.lab.bench.metrics import counted, output_tokens
from penstock.lab.bench.observations import Ending
from penstock.lab.bench.pieces import piece_offsets, piece_times
from penstock.lab.pages.thin import order_statistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from penstock.lab.bench.metrics import Latencies
    from penstock.lab.bench.observations import Observations

    Floats = NDArray[np.float64]

_BLOCK = 1 << 20  # pieces
_WINDOWS = 120  # at least half as many, at most so many
_LOW_BITS = 13  # of a float32's 32: bins of 1/1024 of their value
_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)


@dataclass(frozen=True, slots=True, eq=False)
class Distribution:
    """Of one quantity in one run: `share` of the values are at or below `value`."""

    value: Floats  # [points], rising
    share: Floats  # [points]
    n: int
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """Of one run, warm-up included, in windows of `width` seconds. NaN where a window has nothing to tell."""

    width: float
    middle: Floats  # [windows] s after the start
    output_rate: Floats  # [windows] output tokens/s as they arrived
    answer_rate: Floats  # [windows] whole answers/s
    error_rate: Floats  # [windows] failures/s
    in_flight: Floats  # [windows] requests on their way, on average
    ttft_p50: Floats  # [windows] of whole answers that were due in it
    ttft_p99: Floats


def distributions(seen: Observations, found: Latencies) -> dict[str, Distribution]:
    """`ttft`, `tpot`, `itl`, `e2e`, in s; what has no values is left out."""
    columns = {"ttft": found.ttft, "tpot": found.tpot[np.isfinite(found.tpot)], "e2e": found.e2e}
    made = {
        name: Distribution(*order_statistics(values)[:2], len(values), order_statistics(values)[2])
        for name, values in columns.items()
        if len(values)
    }
    gaps = _gap_distribution(seen)
    return {name: each for name in ("ttft", "tpot", "itl", "e2e") if (each := (made | gaps).get(name)) is not None}


def _gap_distribution(seen: Observations) -> dict[str, Distribution]:
    """Of the inter-token latency, each gap weighted by its tokens; a float32's upper bits, which order as it does, name
    its bin."""
    mass = np.zeros(0x7F800000 >> _LOW_BITS)
    n = 0
    for block in blocks(seen, counted(seen), output_tokens(seen), np.zeros(len(seen), np.int64)):
        values = (block.gaps / block.tokens).astype(np.float32)
        found = np.bincount(np.maximum(values, 0).view(np.uint32) >> _LOW_BITS, block.tokens)
        mass[: len(found)] += found
        n += len(values)
    if not n:
        return {}
    there = np.flatnonzero(mass)
    share = np.cumsum(mass[there]) / mass.sum()
    # The middle of each bin, that of 0 being 0.
    value = (((there.astype(np.uint32) << _LOW_BITS) + (1 << (_LOW_BITS - 1))).astype(np.uint32)).view(np.float32)
    value = np.where(there == 0, 0, value).astype(np.float64)
    kept = np.unique(np.searchsorted(share, _shares(600), side="left").clip(0, len(there) - 1))
    note = "Gaps are counted in bins of a thousandth of their value"
    return {"itl": Distribution(value[kept], share[kept], n, note)}


def _shares(most: int) -> Floats:
    """Half evenly spaced, half towards 1."""
    return np.concatenate([np.linspace(0, 1, most // 2), 1 - np.geomspace(1e-7, 1, most // 2)])


def timeline(seen: Observations) -> Timeline | None:
    """None of a run in which nothing was sent."""
    ends = np.concatenate([seen.end, seen.last_text, seen.sent])
    last = float(np.nanmax(ends, initial=0.0, where=~np.isnan(ends)))
    if not len(seen) or last <= 0:
        return None
    width = next((step for step in _STEPS if last / step <= _WINDOWS), last / _WINDOWS)
    n = int(np.ceil(last / width))
    edges = np.arange(n + 1) * width
    whole = seen.ending == Ending.WHOLE
    p50, p99 = _percentiles_by(_window_of(seen.due[whole], width, n), (seen.first_text - seen.due)[whole], n, (50, 99))
    seconds = np.diff(np.minimum(edges, last))  # the last window is shorter
    return Timeline(
        width=width,
        middle=edges[:-1] + seconds / 2,
        output_rate=_tokens_by(seen, width, n) / seconds,
        answer_rate=np.bincount(_window_of(seen.last_text[whole], width, n), minlength=n) / seconds,
        error_rate=np.bincount(_window_of(_end_of(seen)[~whole], width, n), minlength=n) / seconds,
        in_flight=np.diff(_busy_until(seen, np.minimum(edges, last), last)) / seconds,
        ttft_p50=p50,
        ttft_p99=p99,
    )


def _window_of(times: Floats, width: float, n: int) -> NDArray[np.int64]:
    return np.clip((times / width).astype(np.int64), 0, n - 1)


def _end_of(seen: Observations) -> Floats:
    """[requests] when each was over; a request that never was counts as over when it was due."""
    return np.where(np.isnan(seen.end), seen.due, seen.end)


def _busy_until(seen: Observations, moments: Floats, last: float) -> Floats:
    """[moments] request-seconds on their way until each."""
    sent = ~np.isnan(seen.sent)
    start, end = seen.sent[sent], np.where(np.isnan(seen.end), last, seen.end)[sent]
    return _elapsed(np.sort(start), moments) - _elapsed(np.sort(end), moments)


def _elapsed(ordered: Floats, moments: Floats) -> Floats:
    """[moments] the sum of (moment - time) over all times before it."""
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    before = np.searchsorted(ordered, moments)
    elapsed: Floats = moments * before - sums[before]
    return elapsed


def _percentiles_by(window: NDArray[np.int64], values: Floats, n: int, percents: Sequence[float]) -> tuple[Floats, ...]:
    order = np.argsort(window, kind="stable")
    bounds = np.searchsorted(window[order], np.arange(n + 1))
    found = np.full((len(percents), n), np.nan)
    for at in range(n):
        inside = values[order[bounds[at] : bounds[at + 1]]]
        if len(inside):
            found[:, at] = np.percentile(inside, percents)
    return tuple(found)


def _tokens_by(seen: Observations, width: float, n: int) -> Floats:
    """[n] output tokens by the window in which they came, those of a failed answer included; spread evenly over an
    answer's pieces."""
    tokens = np.zeros(n)
    offsets = piece_offsets(seen)
    each = (output_tokens(seen) / np.maximum(seen.piece_counts, 1)).astype(np.float64)
    first = 0
    while first < len(seen):
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + _BLOCK, side="right")) - 1)
        times = piece_times(seen, offsets, first, last)
        weights = np.repeat(each[first:last], seen.piece_counts[first:last])
        tokens += np.bincount(_window_of(times, width, n), weights, minlength=n)
        seen.forget_pieces()
        first = last
    return tokens
