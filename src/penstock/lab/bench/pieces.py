"""When each piece of text came, and what arrived until then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from penstock.lab.bench.observations import Observations


def piece_offsets(seen: Observations) -> NDArray[np.int64]:
    """[requests + 1] where each one's pieces begin."""
    return np.concatenate([[0], np.cumsum(seen.piece_counts, dtype=np.int64)])


def piece_times(seen: Observations, offsets: NDArray[np.int64], first: int, last: int) -> NDArray[np.float64]:
    """[pieces] of requests [first, last): when each came, in s after the run's start."""
    gaps = np.asarray(seen.piece_gaps[offsets[first] : offsets[last]], np.float64)
    since = np.concatenate([[0.0], np.cumsum(gaps)])
    starts = offsets[first:last] - offsets[first]
    times: NDArray[np.float64] = since[1:] + np.repeat(
        seen.due[first:last] - since[starts], seen.piece_counts[first:last]
    )
    return times


def tokens_before(seen: Observations, tokens: NDArray[np.int32], of: NDArray[np.bool_], moment: float) -> float:
    """Output tokens that had come by `moment`, in s after the start; an answer's are spread evenly over its pieces.

    Args:
        tokens: [requests] of each answer.
        of: [requests] that are counted.
    """
    total = float(tokens[of & (seen.last_text <= moment)].sum())
    offsets = piece_offsets(seen)
    for index in np.flatnonzero(of & (seen.first_text <= moment) & (seen.last_text > moment)).tolist():
        times = piece_times(seen, offsets, index, index + 1)
        total += float((times <= moment).mean() * tokens[index])
    return total
