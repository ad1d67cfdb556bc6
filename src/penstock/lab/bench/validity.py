"""Whether a run's client was good enough to be believed.

A load generator that is late, or that doesn't get the processor, adds its own delay to what it measures. The longest
quantile that is quoted is p99, so that is what the client may not distort:

- **schedule delay** (a request's due time to its sending) is part of every TTFT. Its p99 may be a tenth of the run's
  p99 TTFT.
- **loop lag** (how late the generator's thread woke, and how long it took over what had come) moves the time stamp of a
  piece of text. Its p99 may be a quarter of the p99 gap between pieces, as the lag at a gap's two ends partly cancels.
- **a stall** of the thread longer than a hundredth of the run touches more than one request in a hundred.
- **CPU**: a thread that is busy over 90 % of the time has queues of its own.
- **clocks** of several clients may be apart, and what one of them sends is that much early or late among the others':
  a schedule delay, by a tenth of the run's p99 TTFT at most.
- **the wall clock** may drift from the monotonic one by 0.1 %, twice what NTP slews; more means that it was set, or
  that the machine slept.

Delays below 2 ms, stalls below 100 ms and clock steps below 250 ms are never held against a client: an ordinary
kernel's timer and scheduler do that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from penstock.lab.bench.observations import Ending

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from penstock.lab.bench.observations import Observations

_LEAST_DELAY_S = 0.002
_LEAST_STALL_S = 0.1
_LEAST_STEP_S = 0.25
_SCHEDULE_SHARE = 0.1
_LAG_SHARE = 0.25
_STALL_SHARE = 0.01
_CPU_SHARE = 0.9
_DRIFT_SHARE = 0.001


def judge(seen: Observations) -> tuple[str, ...]:
    """Why a run can't be believed, a sentence each; empty if it can."""
    client, wall = seen.meta["client"], seen.meta["wall"]
    reasons = []
    whole = seen.where(seen.ending == Ending.WHOLE)
    delay, limit = client["schedule_delay_p99"], _limit(whole.first_text - whole.due, _SCHEDULE_SHARE)
    if delay > limit:
        reasons.append(
            f"The client sent late: its schedule delay's p99 is {delay * 1e3:.1f} ms, and {limit * 1e3:.1f} ms is a"
            " tenth of the p99 TTFT."
        )
    lag, limit = client["loop_lag_p99"], _limit(_gaps(whole), _LAG_SHARE)
    if lag > limit:
        reasons.append(
            f"The client read late: its loop lag's p99 is {lag * 1e3:.1f} ms, and {limit * 1e3:.1f} ms is a quarter of"
            " the p99 gap between pieces of text."
        )
    stall, limit = client["loop_lag_max"], max(_LEAST_STALL_S, _STALL_SHARE * wall)
    if stall > limit:
        reasons.append(
            f"The client stood still for {stall * 1e3:.0f} ms, more than the {limit * 1e3:.0f} ms that a p99 can bear."
        )
    cpu = client["cpu"] / client["wall"] if client["wall"] else 0.0
    if cpu > _CPU_SHARE:
        reasons.append(f"The client was short of CPU: its thread was busy for {cpu:.0%} of the time.")
    drift = seen.meta["clock_drift"]
    if abs(drift) > max(_LEAST_STEP_S, _DRIFT_SHARE * wall):
        reasons.append(
            f"The wall clock jumped by {drift:+.2f} s against the monotonic one: it was set, or the machine slept."
        )
    return tuple(reasons)


def clocks_apart(seconds: float, ttft: float) -> str | None:
    """Why several clients can't be believed to have kept the plan together; None if they can.

    Args:
        seconds: that two of their clocks may be apart.
        ttft: p99 of the run, in s.
    """
    limit = max(_LEAST_DELAY_S, _SCHEDULE_SHARE * ttft)
    if seconds <= limit:
        return None
    return (
        f"The clients' clocks are only known to within {seconds * 1e3:.1f} ms, and {limit * 1e3:.1f} ms is a tenth of"
        " the p99 TTFT."
    )


def _limit(times: NDArray[np.floating], share: float) -> float:
    return max(_LEAST_DELAY_S, share * float(np.percentile(times, 99)) if len(times) else 0.0)


def _gaps(whole: Observations) -> NDArray[np.float32]:
    """Between pieces of text; the first entry of each request is no gap."""
    counts = whole.piece_counts.astype(np.int64)
    later = np.ones(len(whole.piece_gaps), bool)
    later[(np.cumsum(counts) - counts)[counts > 0]] = False
    return whole.piece_gaps[later]
