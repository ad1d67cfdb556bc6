"""Fewer points than there are, chosen so that the picture stays true, and words for what was left out."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def order_statistics(values: NDArray[np.floating], most: int = 600) -> tuple[Floats, Floats, str]:
    """Points of a cumulative distribution: values, and the share at or below each.

    Up to `most` values are all there. Of more, every point is still one of them at its own rank: half of the ranks
    evenly spaced, half towards the largest value, evenly in the logarithm of what lies above.
    """
    ordered = np.sort(values.astype(np.float64))
    n = len(ordered)
    if n <= most:
        return ordered, np.arange(1, n + 1) / n, ""
    even = np.linspace(0, n - 1, most // 2)
    tail = n - np.geomspace(1, n, most - most // 2)
    ranks = np.unique(np.concatenate([even, tail]).round().astype(np.int64))
    return ordered[ranks], (ranks + 1) / n, f"Drawn through {len(ranks)} of {n:,} values, each at its own rank"


def lttb(x: Floats, y: Floats, most: int) -> NDArray[np.int64]:
    """Indices of at most `most` points that keep a line's shape: one a bucket, that of the largest triangle with the
    point kept before and the next bucket's mean (Steinarsson, Downsampling Time Series, 2013).

    Args:
        x: [n], ascending.
        y: [n], finite.
        most: at least 3.
    """
    n = len(x)
    if n <= most:
        return np.arange(n)
    edges = np.linspace(1, n - 1, most - 1).astype(np.int64)  # of most - 2 buckets between the first point and the last
    kept = [0]
    for at, (begin, end) in enumerate(pairwise(edges.tolist())):
        last = edges[at + 2] if at + 2 < len(edges) else n
        next_x, next_y = x[end:last].mean(), y[end:last].mean()
        last_x, last_y = x[kept[-1]], y[kept[-1]]
        area = np.abs((last_x - next_x) * (y[begin:end] - last_y) - (last_x - x[begin:end]) * (next_y - last_y))
        kept.append(int(begin + np.argmax(area)))
    return np.array([*kept, n - 1])


def sample(y: Floats, most: int, seed: int = 0) -> tuple[NDArray[np.int64], str]:
    """Indices, ascending, of at most `most` points of a scatter: a tenth are the largest y, the rest are drawn."""
    n = len(y)
    if n <= most:
        return np.arange(n), ""
    extremes = most // 10
    by_size = np.argpartition(-np.nan_to_num(y), extremes)
    drawn = np.random.default_rng(seed).choice(by_size[extremes:], most - extremes, replace=False)
    indices = np.sort(np.concatenate([by_size[:extremes], drawn]))
    return indices, f"{most:,} of {n:,} requests are drawn: the {extremes} highest, and the others at random"


def histogram(values: NDArray[np.floating], bins: int = 50) -> tuple[Floats, Floats]:
    """Edges [b + 1] and the share of values in each bin [b]; evenly in the logarithm if the values span a decade."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if not len(finite):
        return np.zeros(1), np.zeros(0)
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        edges = np.array([low - (abs(low) or 1.0) / 100, high + (abs(high) or 1.0) / 100])
    elif low > 0 and high > 10 * low:
        edges = np.geomspace(low, high, bins + 1)
        edges[0], edges[-1] = low, high  # rounding must not leave the extremes out
    else:
        edges = np.linspace(low, high, bins + 1)
    counts, edges = np.histogram(finite, edges)
    return edges.astype(np.float64), counts / len(finite)
