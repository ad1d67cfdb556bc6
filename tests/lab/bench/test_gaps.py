"""Gaps between pieces of text: block by block they give what a sort of all gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.errors import InvalidRequestError
from penstock.lab.bench import gaps as gaps_module
from penstock.lab.bench.gaps import Run, gap_metrics, largest
from penstock.lab.bench.metrics import counted, latencies, output_tokens
from penstock.lab.bench.observations import Observations
from penstock.lab.bench.summary import Sections
from support.observed import observed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from penstock.core.record import Metric

PERCENTS = ("p50", "p90", "p95", "p99")


def metrics(runs: Sequence[Observations]) -> dict[str, Metric]:
    sections = Sections.split([counted(seen) for seen in runs])
    parts = [
        Run(seen, counted(seen), output_tokens(seen), section)
        for seen, section in zip(runs, sections.of_request, strict=True)
    ]
    return {metric.name: metric for metric in gap_metrics(parts, sections)}


answers = st.lists(
    st.tuples(
        st.lists(st.floats(0, 10, width=32), max_size=6),  # times between pieces, the first since it was due
        st.integers(1, 4),  # tokens to a piece
        st.sampled_from([0, 0, 0, 5]),  # ending
        st.booleans(),  # warm-up
    ),
    max_size=30,
)


@given(st.lists(answers, min_size=1, max_size=3), st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_blocks_of_any_size_give_what_numpy_gives_of_all_gaps_at_once(
    runs: list[list[tuple[list[float], int, int, bool]]], block: int
) -> None:
    seen = [
        observed(
            gaps=[gaps for gaps, *_ in run],
            completion_tokens=[max(1, len(gaps) * tokens) for gaps, tokens, *_ in run],
            ending=[ending for *_, ending, _ in run],
            warm_up=[warm for *_, warm in run],
        )
        for run in runs
    ]
    expected = [
        (gap, tokens) for run in runs for gaps, tokens, ending, warm in run if not warm and not ending
        for gap in gaps[1:]
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gaps_module, "_BLOCK", block)
        found = metrics(seen)
    if not expected:
        assert not found
        return
    each = np.array([gap for gap, _ in expected], np.float32)
    spread = np.repeat(each / np.array([t for _, t in expected], np.float32), [tokens for _, tokens in expected])
    for name, values in (("chunk_gap", each), ("itl", spread)):
        metric = found[name]
        assert metric.n == len(each)
        assert metric.mean == pytest.approx(values.mean(dtype=np.float64), rel=1e-6, abs=1e-12)
        assert (metric.min, metric.max) == (values.min(), values.max())
        for percent in PERCENTS:
            exact = np.percentile(values.astype(np.float64), float(percent[1:]))
            assert getattr(metric, percent) == pytest.approx(exact, rel=1e-6, abs=1e-30)


@given(answers)
@settings(max_examples=100, deadline=None)
def test_the_largest_gap_leaves_the_first_piece_out(run: list[tuple[list[float], int, int, bool]]) -> None:
    seen = observed(gaps=[gaps for gaps, *_ in run])
    assert largest(seen).tolist() == [max(gaps[1:], default=0.0) for gaps, *_ in run]


def test_tokens_told_as_they_come_are_believed_before_an_even_spread() -> None:
    seen = observed(gaps=[[1.0, 0.4, 0.9]], piece_tokens=[1, 2, 3], completion_tokens=[6])
    assert latencies(seen).itl_tokens.tolist() == [2, 3]
    itl = metrics([seen])["itl"]
    assert itl.mean == pytest.approx(1.3 / 5)
    assert (itl.min, itl.max) == (pytest.approx(0.2), pytest.approx(0.3))


@pytest.mark.parametrize(
    ("told", "tokens", "expected"),
    [
        ([0, 0, 0, 8], 8, [2, 2, 2]),  # usage with the last piece of text
        ([0, 4, 0, 2], 6, [2, 1, 1]),
        ([1, 2, 0, 0], 9, [2, 3, 3]),  # the rest is told after the last piece
        ([2, 6, 0, 0], 8, [6, 2, 2]),  # text that was held back
    ],
)
def test_tokens_told_now_and_then_are_of_the_pieces_since_the_telling_before(
    told: list[int], tokens: int, expected: list[int]
) -> None:
    seen = observed(
        gaps=[[0.1, 0.2, 0.3, 0.4], [1.0, 0.5], []], piece_tokens=[*told, 0, 0], completion_tokens=[tokens, 4, 0]
    )
    assert latencies(seen).itl_tokens.tolist() == [*expected, 2]


@pytest.mark.parametrize("gap", [-1.0, float("nan"), float("inf")])
def test_a_gap_that_is_no_time_is_refused(gap: float) -> None:
    with pytest.raises(InvalidRequestError, match="no times"):
        metrics([observed(gaps=[[1.0, gap]])])


def test_an_interval_of_a_percentile_holds_its_order_statistics() -> None:
    random = np.random.default_rng(1)
    values = random.lognormal(-4, 1, (2000, 11)).astype(np.float32)
    found = metrics([observed(gaps=values.tolist())])["chunk_gap"]
    every = np.sort(values[:, 1:].ravel())
    for percent, share in (("p50", 0.5), ("p99", 0.99)):
        interval = found.intervals[percent]
        low, high = (np.searchsorted(every, np.float32(end)) / len(every) for end in (interval.low, interval.high))
        half = 1.96 * np.sqrt(share * (1 - share) / len(every))
        assert low < share < high
        assert half * 0.9 < share - low < half * 2
        assert half * 0.9 < high - share < half * 2


def test_what_a_file_gives_back_is_measured_as_what_was_saved(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    seen = observed(gaps=[random.exponential(1, random.integers(1, 9)).tolist() for _ in range(500)])
    seen.save(tmp_path / "run.npz")
    loaded = Observations.load(tmp_path / "run.npz")
    assert isinstance(loaded.piece_gaps, np.memmap)  # not read yet
    assert metrics([loaded]) == metrics([seen])
    seen.where(np.arange(500) < 3).save(tmp_path / "run.npz")  # the one that is mapped stays as it was
    assert metrics([loaded]) == metrics([seen])


def broken(path: Path, change: dict[str, Any]) -> None:
    with np.load(path) as stored:
        columns = {name: stored[name] for name in stored.files}
    np.savez(path, **(columns | change))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"piece_gaps": np.zeros(2, np.float32)}, "piece_gaps has 2"),
        ({"piece_gaps": np.zeros(3)}, "float64"),
        ({"due": np.zeros(3)}, "due has 3"),
        ({"meta": np.frombuffer(b'{"format": 9}', np.uint8)}, "format 9"),
        ({"meta": np.frombuffer(b"{", np.uint8)}, "no observations"),
        ({"more": np.zeros(1)}, "more"),
    ],
)
def test_a_file_whose_columns_do_not_fit_is_refused_by_name(
    change: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    observed(gaps=[[1.0, 2.0, 3.0]]).save(tmp_path / "run.npz")
    broken(tmp_path / "run.npz", change)
    with pytest.raises(InvalidRequestError, match=r"run\.npz") as caught:
        Observations.load(tmp_path / "run.npz")
    assert complaint in str(caught.value)


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    observed(gaps=[[1.0, 2.0]]).save(tmp_path / "run.npz")
    (tmp_path / "run.npz").write_bytes((tmp_path / "run.npz").read_bytes()[:-100])
    with pytest.raises(InvalidRequestError, match="that can be read"):
        Observations.load(tmp_path / "run.npz")
