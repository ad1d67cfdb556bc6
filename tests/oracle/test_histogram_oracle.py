"""Our histograms beside HdrHistogram's own Python library."""

from __future__ import annotations

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from penstock.lab.bench.histogram import Histogram, range_of

HOUR_NS = 3_600_000_000_000
PERCENTS = (0.1, 1, 50, 90, 95, 99, 99.9, 100)


def both(seed: int) -> tuple[Histogram, HdrHistogram]:
    values = np.exp(np.random.default_rng(seed).normal(17, 4, 5000)).clip(1, HOUR_NS).astype(np.int64)
    ours, theirs = Histogram(), HdrHistogram(1, HOUR_NS, 3)
    ours.record(values)
    for value in values.tolist():
        theirs.record_value(value)
    return ours, theirs


@pytest.mark.oracle
def test_counts_lie_in_the_same_buckets() -> None:
    ours, theirs = both(1)
    assert [theirs.get_count_at_index(bucket) for bucket in range(len(ours.counts))] == ours.counts.tolist()
    for percent in PERCENTS:
        rank = max(1, int(percent / 100 * ours.total + 0.5))
        assert range_of(ours.bucket_at(rank))[1] == theirs.get_value_at_percentile(percent)


@pytest.mark.oracle
def test_either_reads_what_the_other_wrote_and_sums_are_the_same() -> None:
    (ours, theirs), (more, other) = both(2), both(3)
    read = HdrHistogram.decode(ours.encode().encode())
    assert read.total_count == theirs.total_count
    assert [read.get_value_at_percentile(p) for p in PERCENTS] == [theirs.get_value_at_percentile(p) for p in PERCENTS]
    ours.add(more)
    theirs.add(other)
    again = Histogram.decode(theirs.encode().decode())
    assert np.array_equal(again.counts[: len(ours.counts)], ours.counts)
