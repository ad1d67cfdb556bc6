"""How long recent requests took, against a target."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import deque
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from penstock.server.responses import LatencyReport, LatencySummary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WINDOW_SECONDS = 900.0
WINDOW_REQUESTS = 4096


class _Sample(NamedTuple):
    finished: float
    duration: float
    first_token: float


class LatencyWindow:
    """The latest finished requests: at most `requests` of them, none older than `seconds`.

    Args:
        seconds: how far back the window reaches.
        requests: how many it holds at most; older ones make room.
        clock: seconds that never go backwards.
    """

    def __init__(
        self,
        seconds: float = WINDOW_SECONDS,
        requests: int = WINDOW_REQUESTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._samples: deque[_Sample] = deque(maxlen=requests)

    def add(self, duration: float, first_token: float) -> None:
        """One request that has just finished; both in seconds since its arrival."""
        self._samples.append(_Sample(self._clock(), duration, first_token))

    def report(self, target_ms: float) -> LatencyReport:
        """Shares within `target_ms` and percentiles of the requests in the window."""
        oldest = self._clock() - self._seconds
        while self._samples and self._samples[0].finished < oldest:
            self._samples.popleft()
        return LatencyReport(
            target_ms=target_ms,
            requests=len(self._samples),
            window_seconds=self._seconds,
            duration=_summary(sorted(sample.duration * 1e3 for sample in self._samples), target_ms),
            time_to_first_token=_summary(sorted(sample.first_token * 1e3 for sample in self._samples), target_ms),
        )


def _summary(ordered: Sequence[float], target: float) -> LatencySummary:
    """Of sorted milliseconds; percentiles by nearest rank, so each is a latency that some request had."""
    if not ordered:
        return LatencySummary(within_target=None, p50_ms=None, p95_ms=None, p99_ms=None)
    p50, p95, p99 = (round(ordered[ceil(share * len(ordered)) - 1], 3) for share in (0.50, 0.95, 0.99))
    return LatencySummary(
        within_target=round(bisect_right(ordered, target) / len(ordered), 4), p50_ms=p50, p95_ms=p95, p99_ms=p99
    )
