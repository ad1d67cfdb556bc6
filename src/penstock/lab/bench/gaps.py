"""The gaps between pieces of text of whole runs: a hundred million of them, exactly, in little memory.

A float32 that isn't negative orders as its bits do, so its upper bits name a bin. One pass counts the bins of each
section of the run, and a second one the values within the few bins that hold a percentile or a bound of its interval:
a selection by radix, whose order statistics are those of a sort. Beside the arrays of the requests, a block of pieces
is all that is in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from penstock.core.errors import InvalidRequestError
from penstock.core.estimate import CONFIDENCE
from penstock.core.record import Interval, Metric
from penstock.lab.bench.summary import PERCENTILES, interval_of_mean, ranks_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from numpy.typing import NDArray

    from penstock.lab.bench.observations import Observations
    from penstock.lab.bench.summary import Sections

_BLOCK = 1 << 20  # pieces
_LOW_BITS = 14  # of 32: bins of 1/512 of their value
_BINS = 0x7F800000 >> _LOW_BITS  # the first that holds no finite number
_BELOW = 1 - 1e-12  # weights that are no whole numbers add up to a little less or more


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

    A server may count as it goes. What it tells is of the pieces since it told last, and spread evenly over them: most
    tell once, with the last piece or after it. Tokens that it never told are of the pieces since then.

    Args:
        counted: [requests] whose gaps are wanted.
        tokens: [requests] output tokens.
        section: [requests], never falling.
    """
    counts = seen.piece_counts.astype(np.int64)
    ends = np.cumsum(counts)
    for first, last in _ranges(ends, section):
        from_, to = int(ends[first] - counts[first]), int(ends[last - 1])
        n = counts[first:last]
        wanted = np.repeat(counted[first:last], n)
        starts = (np.cumsum(n) - n)[n > 0]
        wanted[starts] = False
        gaps = np.asarray(seen.piece_gaps[from_:to])[wanted]
        told = np.asarray(seen.piece_tokens[from_:to])
        yield Block(int(section[first]), gaps, _spread(told, n, tokens[first:last])[wanted])
        seen.forget_pieces()


def _spread(told: NDArray[np.uint16], counts: NDArray[np.int64], tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    """[pieces] tokens of each.

    Args:
        told: [pieces] of whole requests, what the server told with each; 0 where it told nothing.
        counts: [requests] pieces of each.
        tokens: [requests] of each.
    """
    if len(told) and told.all():
        return told.astype(np.float32)
    evenly = np.repeat((tokens / np.maximum(counts, 1)).astype(np.float32), counts)
    if not told.any():
        return evenly
    some = counts > 0
    last = np.cumsum(counts)[some] - 1
    telling = told > 0
    ends = telling.copy()
    ends[last] = True
    stretch: NDArray[np.int64] = np.cumsum(ends) - ends
    sums = np.bincount(stretch, told)
    rest = tokens[some] - np.add.reduceat(told.astype(np.int64), last + 1 - counts[some])
    silent = ~telling[last]
    sums[stretch[last[silent]]] = np.maximum(rest[silent], 0)
    found = (sums / np.bincount(stretch))[stretch].astype(np.float32)
    return np.where(found > 0, found, evenly)  # text that was held back may come with no token of its own


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


def gap_metrics(runs: Sequence[Run], sections: Sections) -> list[Metric]:
    """`chunk_gap`, a value a gap, and `itl`, a value a token that came at the end of one; none if there are no gaps."""
    chunk_gap, itl = _Bins(len(sections.run)), _Bins(len(sections.run))
    single = True  # a token to each piece: both are the same
    for block in _all_blocks(runs):
        counted = _Histogram.of(block.gaps, None)
        chunk_gap.add(block.section, counted)
        alike = bool((block.tokens == 1).all())
        itl.add(block.section, counted if alike else _Histogram.of(block.gaps / block.tokens, block.tokens))
        single = single and alike
    if not chunk_gap.n:
        return []
    chosen = [_Chosen("chunk_gap", chunk_gap, sections)] + ([] if single else [_Chosen("itl", itl, sections)])
    for block in _all_blocks(runs):
        chosen[0].add(block.gaps, None)
        if not single:
            chosen[1].add(block.gaps / block.tokens, block.tokens)
    found = [each.metric() for each in chosen]
    return found if not single else [*found, msgspec.structs.replace(found[0], name="itl")]


class _Histogram(NamedTuple):
    """Of one block."""

    weights: NDArray[np.floating] | NDArray[np.integer]  # [up to the highest bin]
    sum: float
    n: int
    min: float
    max: float

    @classmethod
    def of(cls, values: NDArray[np.float32], weights: NDArray[np.float32] | None) -> Self:
        bins = values.view(np.uint32) >> _LOW_BITS
        if int(bins.max()) >= _BINS:
            raise InvalidRequestError("The observations hold gaps between pieces of text that are no times.")
        total = values.sum(dtype=np.float64) if weights is None else np.dot(values, weights)
        return cls(np.bincount(bins, weights), float(total), len(values), float(values.min()), float(values.max()))


class _Bins:
    """Weights of a quantity's values by section and bin: what the first pass finds."""

    def __init__(self, sections: int) -> None:
        self.weights = np.zeros((sections, _BINS))
        self.sums = np.zeros(sections)
        self.n, self.min, self.max = 0, np.inf, -np.inf

    def add(self, section: int, found: _Histogram) -> None:
        self.weights[section, : len(found.weights)] += found.weights
        self.sums[section] += found.sum
        self.n += found.n
        self.min, self.max = min(self.min, found.min), max(self.max, found.max)


class _Chosen:
    """The order statistics that a metric wants, and the values in their bins: the second pass."""

    def __init__(self, name: str, bins: _Bins, sections: Sections) -> None:
        self._name, self._bins, self._run = name, bins, sections.run
        self._mass = np.cumsum(bins.weights.sum(axis=0))
        self._by_section = bins.weights.sum(axis=1)
        self._wanted = self._choose()
        needed = sorted({self._bin_at(mass) for pair in self._wanted.values() for mass in pair})
        self._slot = np.full(_BINS, -1, np.int64)
        self._slot[needed] = np.arange(len(needed))
        self._fine = np.zeros(len(needed) << _LOW_BITS)

    def _choose(self) -> dict[str, tuple[float, float]]:
        """Masses (weight at or below a value) to interpolate between, or of an interval's ends."""
        total = float(self._mass[-1])
        wanted: dict[str, tuple[float, float]] = {}
        for percent in PERCENTILES:
            at = int(self._position(percent))
            wanted[f"p{percent}"] = (at + 1, min(at + 2, total))
            below = self._bins.weights[:, : self._bin_at(at + 1) + 1].sum(axis=1)
            ranks = ranks_of(round(total), percent / 100, below, self._by_section, self._run)
            if ranks is not None:
                wanted[f"interval p{percent}"] = (float(ranks[0]), float(ranks[1]))
        return wanted

    def _position(self, percent: float) -> float:
        """Of a percentile, among as many ordered values as there is weight."""
        return max(0.0, (float(self._mass[-1]) - 1) * percent / 100)

    def _bin_at(self, mass: float) -> int:
        """Of the smallest value with so much weight at or below it."""
        highest = np.searchsorted(self._mass, self._mass[-1])  # rounding may ask for more than there is
        return int(min(np.searchsorted(self._mass, mass * _BELOW), highest))

    def add(self, values: NDArray[np.float32], weights: NDArray[np.float32] | None) -> None:
        bits = values.view(np.uint32)
        where = self._slot[bits >> _LOW_BITS]
        hit = np.flatnonzero(where >= 0)
        fine = (where[hit] << _LOW_BITS) | (bits[hit] & ((1 << _LOW_BITS) - 1))
        self._fine += np.bincount(fine, None if weights is None else weights[hit], minlength=len(self._fine))

    def _value_at(self, mass: float) -> float:
        at = self._bin_at(mass)
        before = float(self._mass[at - 1]) if at else 0.0
        inside = self._fine[self._slot[at] << _LOW_BITS : (self._slot[at] + 1) << _LOW_BITS]
        low = min(np.searchsorted(before + np.cumsum(inside), mass * _BELOW), np.flatnonzero(inside)[-1])
        return float(np.array([(at << _LOW_BITS) | int(low)], np.uint32).view(np.float32)[0])

    def metric(self) -> Metric:
        """When all values were added."""
        bins, exact = self._bins, {key: tuple(map(self._value_at, pair)) for key, pair in self._wanted.items()}
        found, intervals = {}, {}
        for percent in PERCENTILES:
            key, at = f"p{percent}", self._position(percent)
            low, high = exact[key]
            found[key] = min(low + (high - low) * (at - int(at)), high)
            if (ends := exact.get(f"interval {key}")) is not None:
                intervals[key] = Interval(ends[0], ends[1], CONFIDENCE, "ranks")
        mean = min(max(float(bins.sums.sum() / self._mass[-1]), bins.min), bins.max)
        return Metric(
            name=self._name, unit="s", n=bins.n, mean=mean, **found, min=bins.min, max=bins.max,
            ci=interval_of_mean(mean, bins.sums, self._by_section, self._run), intervals=intervals, samples=(),
        )  # fmt: skip
