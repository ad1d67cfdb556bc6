"""The field's figures of one run.

| figure | definition |
|---|---|
| TTFT | first piece of text, since the request was due |
| E2E | last piece of text, since the request was due |
| TPOT | (E2E - TTFT) / (n - 1), n output tokens |
| chunk gap | between successive pieces of text, as they were seen |
| ITL | each chunk gap spread over its chunk's tokens |
| output throughput | output tokens over the time from the first due to the last piece of text |
| goodput | requests/s that met every bound of the SLO |

Only whole answers outside the warm-up have latencies; all others are counted by what went wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.lab.bench.observations import Ending

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from penstock.lab.bench.observations import Observations
    from penstock.lab.bench.slo import Slo


@dataclass(frozen=True, slots=True, eq=False)
class Latencies:
    """Of the n whole answers that count, in seconds, in order of their ending."""

    ttft: NDArray[np.float64]  # [n]
    e2e: NDArray[np.float64]  # [n]
    tpot: NDArray[np.float64]  # [n]; NaN with fewer than two tokens
    tokens: NDArray[np.int32]  # [n] output tokens: the server's count, else the pieces of text
    prompt_tokens: NDArray[np.int32]  # [n] the server's count, else what the workload meant, else 0
    chunk_gaps: NDArray[np.float32]  # [gaps] of all, one request's after another's
    itl: NDArray[np.float32]  # [gaps]; each stands for `itl_tokens` tokens
    itl_tokens: NDArray[np.float32]  # [gaps]
    largest_gap: NDArray[np.float32]  # [n]; 0 with a single piece


@dataclass(frozen=True, slots=True)
class Totals:
    """Of one run, warm-up left out."""

    requests: int
    whole: int
    errors: dict[str, int]  # by kind: an ending's name, or "status 503"
    seconds: float  # first due to last piece of text
    output_tokens: int
    prompt_tokens: int
    met: int | None  # whole answers within the SLO; None without one

    @property
    def output_throughput(self) -> float:
        """Tokens/s."""
        return self.output_tokens / self.seconds if self.seconds else 0.0

    @property
    def request_throughput(self) -> float:
        """Whole answers/s."""
        return self.whole / self.seconds if self.seconds else 0.0

    @property
    def goodput(self) -> float | None:
        """Answers/s within the SLO."""
        return None if self.met is None else self.met / self.seconds if self.seconds else 0.0


def latencies(seen: Observations) -> Latencies:
    """Warm-up and unfinished requests are left out."""
    good = seen.where((seen.ending == Ending.WHOLE) & ~seen.warm_up)
    counts = good.piece_counts.astype(np.int64)
    tokens = np.where(good.completion_tokens > 0, good.completion_tokens, counts).astype(np.int32)
    ttft, e2e = good.first_text - good.due, good.last_text - good.due
    tpot = np.full(len(good), np.nan)
    np.divide(e2e - ttft, tokens - 1, out=tpot, where=tokens > 1)
    starts = np.cumsum(counts) - counts
    later = np.ones(len(good.piece_gaps), bool)
    later[starts[counts > 0]] = False  # a request's first entry is no gap
    gaps = good.piece_gaps[later]
    told = good.piece_tokens[later].astype(np.float32)
    spread = np.repeat((tokens / np.maximum(counts, 1)).astype(np.float32), np.maximum(counts - 1, 0))
    per_gap = np.where(told > 0, told, spread)
    largest = np.zeros(len(good), np.float32)
    many = counts > 1
    if many.any():
        gap_starts = (np.cumsum(counts - 1) - (counts - 1))[many]
        largest[many] = np.maximum.reduceat(gaps, gap_starts)
    return Latencies(
        ttft=ttft, e2e=e2e, tpot=tpot, tokens=tokens,
        prompt_tokens=np.where(good.prompt_tokens >= 0, good.prompt_tokens, np.maximum(good.wanted_prompt, 0)),
        chunk_gaps=gaps, itl=(gaps / per_gap).astype(np.float32), itl_tokens=per_gap, largest_gap=largest,
    )  # fmt: skip


def meets(found: Latencies, slo: Slo) -> NDArray[np.bool_]:
    """[n] which answers are within every bound."""
    values: dict[str, NDArray[Any]] = {
        "ttft": found.ttft,
        "tpot": np.nan_to_num(found.tpot),
        "e2e": found.e2e,
        "itl": found.largest_gap,
    }
    within = np.ones(len(found.ttft), bool)
    for name, bound in slo.bounds:
        within &= values[name] <= bound
    return within


def totals(seen: Observations, found: Latencies, slo: Slo | None = None) -> Totals:
    """Counts and rates of the same run as `found`."""
    counted = seen.where(~seen.warm_up)
    errors: dict[str, int] = {}
    for ending, status in zip(counted.ending.tolist(), counted.status.tolist(), strict=True):
        if ending != Ending.WHOLE:
            kind = f"status {status}" if ending == Ending.STATUS else Ending(ending).name.lower()
            errors[kind] = errors.get(kind, 0) + 1
    last = np.nanmax(counted.last_text) if len(counted) and not np.isnan(counted.last_text).all() else np.nan
    seconds = float(last - counted.due.min()) if not np.isnan(last) else 0.0
    return Totals(
        requests=len(counted), whole=len(found.ttft), errors=errors, seconds=seconds,
        output_tokens=int(found.tokens.sum()), prompt_tokens=int(found.prompt_tokens.sum()),
        met=None if slo is None else int(meets(found, slo).sum()),
    )  # fmt: skip
