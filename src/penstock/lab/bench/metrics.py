"""The field's figures of one run.

| figure | definition |
|---|---|
| TTFT | first piece of text, since the request was due |
| E2E | last piece of text, since the request was due |
| TPOT | (E2E - TTFT) / (n - 1), n output tokens |
| chunk gap | between successive pieces of text, as they were seen |
| ITL | each chunk gap spread over its chunk's tokens |
| output throughput | output tokens over the run's window |
| goodput | requests/s that met every bound of the SLO |

Only whole answers outside the warm-up have latencies; all others are counted by what went wrong.

A run of so many requests is a job: its window is from its first due request to its last piece of text, and what its
requests brought is counted. A run of so many seconds, or one that was cut, is a look at a server under load: its window
ends when no more is sent, before the load falls, and what arrived within it is counted, whichever request it was of.
Both begin after the warm-up. docs/metrics-of-load.md says how other tools differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.lab.bench.gaps import Run, blocks, largest
from penstock.lab.bench.observations import Ending
from penstock.lab.bench.pieces import tokens_before

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from penstock.lab.bench.observations import Observations
    from penstock.lab.bench.slo import Slo


@dataclass(frozen=True, eq=False)
class Latencies:
    """Of the n whole answers that count, in seconds, in order of their ending."""

    ttft: NDArray[np.float64]  # [n]
    e2e: NDArray[np.float64]  # [n]
    tpot: NDArray[np.float64]  # [n]; NaN with fewer than two tokens
    tokens: NDArray[np.int32]  # [n] output tokens: the server's count, else the pieces of text
    prompt_tokens: NDArray[np.int32]  # [n] the server's count, else what the workload meant, else 0
    run: Run

    @cached_property
    def chunk_gaps(self) -> NDArray[np.float32]:
        """[gaps] of all, one request's after another's."""
        return self._gaps[0]

    @cached_property
    def itl(self) -> NDArray[np.float32]:
        """[gaps]; each stands for `itl_tokens` tokens."""
        return self._gaps[0] / self._gaps[1]

    @cached_property
    def itl_tokens(self) -> NDArray[np.float32]:
        """[gaps]"""
        return self._gaps[1]

    @cached_property
    def largest_gap(self) -> NDArray[np.float32]:
        """[n]; 0 with a single piece."""
        return largest(self.run.seen)[self.run.counted]

    @cached_property
    def _gaps(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        run = self.run
        found = list(blocks(run.seen, run.counted, run.tokens, run.section))
        return (
            np.concatenate([block.gaps for block in found] or [np.empty(0, np.float32)]),
            np.concatenate([block.tokens for block in found] or [np.empty(0, np.float32)]),
        )


@dataclass(frozen=True, slots=True)
class Totals:
    """Of one run. `requests` and `errors` are without the warm-up, the others of the window from `begin` to `end`."""

    requests: int
    errors: dict[str, int]  # by kind: an ending's name, or "status 503"
    begin: float  # s after the run's start
    end: float
    whole: int
    output_tokens: int
    prompt_tokens: int
    met: int | None  # whole answers within the SLO; None without one

    @property
    def seconds(self) -> float:
        """The window's length."""
        return self.end - self.begin

    @property
    def output_throughput(self) -> float:
        """Tokens/s."""
        return self._rate(self.output_tokens)

    @property
    def total_throughput(self) -> float:
        """Tokens/s, those of the prompts included."""
        return self._rate(self.output_tokens + self.prompt_tokens)

    @property
    def request_throughput(self) -> float:
        """Whole answers/s."""
        return self._rate(self.whole)

    @property
    def goodput(self) -> float | None:
        """Answers/s within the SLO."""
        return None if self.met is None else self._rate(self.met)

    def _rate(self, count: int) -> float:
        return count / self.seconds if self.seconds > 0 else 0.0


def counted(seen: Observations) -> NDArray[np.bool_]:
    """[requests] that have latencies: whole, and outside the warm-up."""
    mask: NDArray[np.bool_] = (seen.ending == Ending.WHOLE) & ~seen.warm_up
    return mask


def output_tokens(seen: Observations) -> NDArray[np.int32]:
    """[requests] the server's count; where it doesn't tell, the pieces of text."""
    return np.where(seen.completion_tokens > 0, seen.completion_tokens, seen.piece_counts).astype(np.int32)


def prompt_tokens(seen: Observations) -> NDArray[np.int32]:
    """[requests] the server's count; where it doesn't tell, what the workload meant; else 0."""
    return np.where(seen.prompt_tokens >= 0, seen.prompt_tokens, np.maximum(seen.wanted_prompt, 0)).astype(np.int32)


def latencies(seen: Observations) -> Latencies:
    """Warm-up and unfinished requests are left out."""
    return _latencies(seen, counted(seen))


def _latencies(seen: Observations, mask: NDArray[np.bool_]) -> Latencies:
    tokens = output_tokens(seen)
    ttft, e2e = (seen.first_text - seen.due)[mask], (seen.last_text - seen.due)[mask]
    tpot = np.full(len(ttft), np.nan)
    np.divide(e2e - ttft, tokens[mask] - 1, out=tpot, where=tokens[mask] > 1)
    return Latencies(
        ttft=ttft, e2e=e2e, tpot=tpot, tokens=tokens[mask], prompt_tokens=prompt_tokens(seen)[mask],
        run=Run(seen, mask, tokens, np.zeros(len(seen), np.int64)),
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


def totals(
    seen: Observations, found: Latencies, slo: Slo | None = None, span: tuple[float, float, bool] | None = None
) -> Totals:
    """Counts and rates of the same run as `found`. `span` is the window of a run that this is a part of."""
    asked, errors = ~seen.warm_up, errors_by_kind(seen)
    begin, end, job = span or window(seen)
    if job:
        return Totals(
            requests=int(asked.sum()), errors=errors, begin=begin, end=end, whole=len(found.ttft),
            output_tokens=int(found.tokens.sum()), prompt_tokens=int(found.prompt_tokens.sum()),
            met=None if slo is None else int(meets(found, slo).sum()),
        )  # fmt: skip
    whole = seen.ending == Ending.WHOLE
    answered = whole & (seen.last_text > begin) & (seen.last_text <= end)
    begun = whole & (seen.first_text > begin) & (seen.first_text <= end)
    working = whole | (seen.ending == Ending.CUT)
    tokens = output_tokens(seen)
    arrived = tokens_before(seen, tokens, working, end) - tokens_before(seen, tokens, working, begin)
    return Totals(
        requests=int(asked.sum()), errors=errors, begin=begin, end=end, whole=int(answered.sum()),
        output_tokens=round(arrived), prompt_tokens=int(prompt_tokens(seen)[begun].sum()),
        met=None if slo is None else int(meets(_latencies(seen, answered), slo).sum()),
    )  # fmt: skip


def window(seen: Observations) -> tuple[float, float, bool]:
    """Where a run's rates begin and end, in s after its start, and whether it is a job of so many requests."""
    return window_between(*extent(seen), seen.meta)


def extent(seen: Observations) -> tuple[float | None, float | None]:
    """When the first request outside the warm-up was due, and when the last piece of text of one came, in s."""
    asked = ~seen.warm_up
    last = seen.last_text[asked]
    return (
        float(seen.due[asked].min()) if asked.any() else None,
        None if np.isnan(last).all() else float(np.nanmax(last)),
    )


def window_between(begin: float | None, last: float | None, meta: Mapping[str, Any]) -> tuple[float, float, bool]:
    """`window` of a run with this `extent`."""
    if begin is None:
        return 0.0, 0.0, True
    if meta.get("cut"):
        return begin, max(begin, min(meta["wall"], meta.get("duration") or np.inf)), False
    if meta.get("stopped"):
        return begin, max(begin, float(meta["duration"])), False
    return begin, begin if last is None else max(begin, last), True


def errors_by_kind(seen: Observations) -> dict[str, int]:
    """Of requests outside the warm-up: an ending's name, or "status 503", and how many."""
    failed = ~seen.warm_up & (seen.ending != Ending.WHOLE)
    pairs = np.stack([seen.ending[failed], np.where(seen.ending == Ending.STATUS, seen.status, 0)[failed]])
    kinds, counts = np.unique(pairs, axis=1, return_counts=True)
    names = [f"status {status}" if ending == Ending.STATUS else Ending(ending).name.lower()
             for ending, status in kinds.T.tolist()]  # fmt: skip
    return dict(zip(names, counts.tolist(), strict=True))
