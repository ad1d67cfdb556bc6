"""The gaps between pieces of text of whole runs: a hundred million of them, exactly, in little memory.

A float32 that isn't negative orders as its bits do, so its upper bits name a bin. One pass counts the bins of each
section of the run, and a second one the values within the few bins that hold a percentile or a bound of its interval:
a selection by radix, whose order statistics are those of a sort. Beside the arrays of the requests, a block of pieces
is all that is in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from penstock.core.errors import InvalidRequestError
from penstock.core.record import CONFIDENCE, Interval, Metric
from penstock.lab.bench.summary import PERCENTILES, interval_of_mean, ranks_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from penstock.lab.bench.observations import Observations
    from penstock.lab.bench.summary import Sections

_BLOCK = 1 << 20  # pieces
_LOW_BITS = 14  # of 32: bins of 1/512 of their value
_BINS = 0x7F800000 >> _LOW_BITS  # the first that holds no finite number


@dataclass(frozen=True, slots=True)
class Block:
    """Some of one section's gaps: from piece to piece, those to a request's first piece left out."""

    section: int
    gaps: NDArray[np.float32]  # [gaps] s
    tokens: NDArray[np.float32]  # [gaps] that came at its end


def blocks(
    seen: Observations, counted: NDArray[np.bool_], tokens: NDArray[np.int32], section: NDArray[np.int64]
) -> Iterator[Block]:
    """One run's gaps, in order.

    Where the server doesn't count as it goes, a request's tokens are spread evenly over its pieces.

    Args:
        counted: [requests] whose gaps are wanted.
        tokens: [requests] output tokens.
        section: [requests], never falling.
    """
    counts = seen.piece_counts.astype(np.int64)
    ends = np.cumsum(counts)
    per_piece = (tokens / np.maximum(counts, 1)).astype(np.float32)
    for first, last in _ranges(ends, section):
        from_, to = int(ends[first] - counts[first]), int(ends[last - 1])
        n = counts[first:last]
        wanted = np.repeat(counted[first:last], n)
        starts = (np.cumsum(n) - n)[n > 0]
        wanted[starts] = False
        gaps = np.asarray(seen.piece_gaps[from_:to])[wanted]
        told = np.asarray(seen.piece_tokens[from_:to])[wanted].astype(np.float32)
        spread = np.repeat(per_piece[first:last], n)[wanted] if not told.all() else told
        yield Block(int(section[first]), gaps, np.where(told > 0, told, spread))
        seen.forget_pieces()


def largest(seen: Observations) -> NDArray[np.float32]:
    """[requests] the longest gap of each, in s; 0 with fewer than two pieces."""
    counts = seen.piece_counts.astype(np.int64)
    ends = np.cumsum(counts)
    found = np.zeros(len(seen), np.float32)
    for first, last in _ranges(ends, np.zeros(len(seen), np.int64)):
        gaps = np.array(seen.piece_gaps[int(ends[first] - counts[first]) : int(ends[last - 1])])
        n = counts[first:last]
        starts = (np.cumsum(n) - n)[n > 0]
        gaps[starts] = 0.0
        if len(starts):
            found[first:last][n > 0] = np.maximum.reduceat(gaps, starts)
        seen.forget_pieces()
    return found


def _ranges(ends: NDArray[np.int64], section: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Requests [first, last) of one section, with a block of pieces at most unless a single one has more."""
    first = 0
    while first < len(ends):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + _BLOCK, side="right")))
        last = min(last, int(np.searchsorted(section, section[first], side="right")))
        yield first, last
        first = last


def gap_metrics(runs: Sequence[Run], sections: Sections) -> list[Metric]:
    """`chunk_gap`, a value a gap, and `itl`, a value a token that came at the end of one; none if there are no gaps."""
    if not any(_all_blocks(runs)):
        return []
    chunk_gap = _measure("chunk_gap", lambda: ((b.section, b.gaps, None) for b in _all_blocks(runs)), sections)
    itl = _measure("itl", lambda: ((b.section, b.gaps / b.tokens, b.tokens) for b in _all_blocks(runs)), sections)
    return [chunk_gap, itl]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What `blocks` wants of a run."""

    seen: Observations
    counted: NDArray[np.bool_]
    tokens: NDArray[np.int32]
    section: NDArray[np.int64]


def _all_blocks(runs: Sequence[Run]) -> Iterator[Block]:
    for run in runs:
        for block in blocks(run.seen, run.counted, run.tokens, run.section):
            if len(block.gaps):
                yield block


Values = tuple[int, "NDArray[np.float32]", "NDArray[np.float32] | None"]  # section, values, weights


class _Bins:
    """Weights of a quantity's values by section and bin: the first pass."""

    def __init__(self, values: Iterator[Values], sections: int) -> None:
        self.weights = np.zeros((sections, _BINS))
        self.sums = np.zeros(sections)
        self.n, self.min, self.max = 0, np.inf, -np.inf
        for section, block, weights in values:
            bins = block.view(np.uint32) >> _LOW_BITS
            if int(bins.max()) >= _BINS:
                raise InvalidRequestError("The observations hold gaps between pieces of text that are no times.")
            found = np.bincount(bins, weights)
            self.weights[section, : len(found)] += found
            self.sums[section] += block.sum(dtype=np.float64) if weights is None else np.dot(block, weights)
            self.n += len(block)
            self.min, self.max = min(self.min, float(block.min())), max(self.max, float(block.max()))
        self.mass = np.cumsum(self.weights.sum(axis=0))

    def bin_at(self, mass: float) -> int:
        """Of the smallest value with so much weight at or below it."""
        return int(min(np.searchsorted(self.mass, mass * (1 - 1e-12)), np.searchsorted(self.mass, self.mass[-1])))


def _measure(name: str, values: Callable[[], Iterator[Values]], sections: Sections) -> Metric:
    bins = _Bins(values(), len(sections.run))
    total, by_section = float(bins.mass[-1]), bins.weights.sum(axis=1)
    wanted: dict[str, tuple[float, float]] = {}  # masses to interpolate between, or of an interval's ends
    share: dict[str, float] = {}
    for percent in PERCENTILES:
        at = max(0.0, (total - 1) * percent / 100)
        wanted[f"p{percent}"] = (int(at) + 1, min(int(at) + 2, total))
        share[f"p{percent}"] = at - int(at)
        below = bins.weights[:, : bins.bin_at(int(at) + 1) + 1].sum(axis=1)
        ranks = ranks_of(round(total), percent / 100, below, by_section, sections.run)
        if ranks is not None:
            wanted[f"interval p{percent}"] = (float(ranks[0]), float(ranks[1]))
    exact = _select(values(), bins, {mass for pair in wanted.values() for mass in pair})
    found, intervals = {}, {}
    for key, share_above in share.items():
        low, high = (exact[mass] for mass in wanted[key])
        found[key] = min(low + (high - low) * share_above, high)
        if (pair := wanted.get(f"interval {key}")) is not None:
            intervals[key] = Interval(exact[pair[0]], exact[pair[1]], CONFIDENCE, "ranks")
    mean = min(max(float(bins.sums.sum()) / total, bins.min), bins.max)
    return Metric(
        name=name, unit="s", n=bins.n, mean=mean, **found, min=bins.min, max=bins.max,
        ci=interval_of_mean(mean, bins.sums, by_section, sections.run), intervals=intervals,
        samples=(),
    )  # fmt: skip


def _select(values: Iterator[Values], bins: _Bins, masses: set[float]) -> dict[float, float]:
    """The value at each mass: the second pass."""
    slot = np.full(_BINS, -1, np.int64)
    needed = sorted({bins.bin_at(mass) for mass in masses})
    slot[needed] = np.arange(len(needed))
    weights_of = np.zeros(len(needed) << _LOW_BITS)
    for _, block, weights in values:
        bits = block.view(np.uint32)
        where = slot[bits >> _LOW_BITS]
        hit = np.flatnonzero(where >= 0)
        fine = (where[hit] << _LOW_BITS) | (bits[hit] & ((1 << _LOW_BITS) - 1))
        weights_of += np.bincount(fine, None if weights is None else weights[hit], minlength=len(weights_of))
    found = {}
    for mass in masses:
        at = bins.bin_at(mass)
        before = float(bins.mass[at - 1]) if at else 0.0
        inside = weights_of[slot[at] << _LOW_BITS : (slot[at] + 1) << _LOW_BITS]
        reached = before + np.cumsum(inside)
        low = min(np.searchsorted(reached, mass * (1 - 1e-12)), np.flatnonzero(inside)[-1])
        found[mass] = float(np.array([(at << _LOW_BITS) | int(low)], np.uint32).view(np.float32)[0])
    return found
