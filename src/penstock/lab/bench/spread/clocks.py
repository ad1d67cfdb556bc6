"""How far another machine's monotonic clock is from this one's.

Each side's clock is read by the exchange that NTP makes (RFC 5905, section 8), with one reading at the far end: asked
at t0, read there at t, answered at t3, the far clock is t - (t0 + t3)/2 ahead, give or take half the round trip,
however unequal its two ways are. Of many exchanges the one with the shortest round trip is taken (Cristian,
Probabilistic Clock Synchronization, 1989): it waited least in queues.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROUNDS = 30


@dataclass(frozen=True, slots=True)
class Offset:
    """In ns."""

    ahead: int  # what the far clock shows less what this one does
    uncertainty: int  # the truth is within so much of `ahead`

    def there(self, here: int) -> int:
        """What the far clock shows when this one shows `here`."""
        return here + self.ahead


def exchange(
    read_far: Callable[[], int], *, read_here: Callable[[], int] = time.monotonic_ns, rounds: int = ROUNDS
) -> Offset:
    """Ask the far clock so many times."""
    best: tuple[int, int] | None = None
    for _ in range(rounds):
        asked = read_here()
        there = read_far()
        answered = read_here()
        trip = answered - asked
        if best is None or trip < best[0]:
            best = trip, there - (asked + answered) // 2
    if best is None:
        raise ValueError(f"A clock is compared at least once; got {rounds} rounds.")
    return Offset(best[1], -(-best[0] // 2) + 1)  # the halves are rounded


def residual(before: Offset, after: Offset | None) -> int:
    """How far apart two clocks may have been during a run, in ns, when its start was set by `before`.

    What they drifted apart until `after` is part of it: requests that were due late came so much early or late.
    """
    if after is None:
        return before.uncertainty
    drift = abs(after.ahead - before.ahead)
    return max(before.uncertainty, drift + after.uncertainty)


def apart(residuals: Iterable[int]) -> int:
    """How far any two of several clocks may have been apart, in ns, each being so far from this one at most.

    One may have been ahead and the other behind.
    """
    return sum(sorted(residuals)[-2:])
