"""Queues whose capacity is known, simulated: what a verdict on stability is held against.

Service times have a mean of 1, so that `servers` is the capacity in requests/s. All are drawn from a numpy generator.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray


def services(random: Generator, kind: str, n: int) -> NDArray[np.float64]:
    """[n] of "constant", "exponential", "lognormal:SIGMA" or "pareto:EXPONENT" (over 1)."""
    name, _, text = kind.partition(":")
    if name == "constant":
        return np.ones(n)
    if name == "exponential":
        return random.exponential(1, n)
    parameter = float(text)
    if name == "lognormal":
        return random.lognormal(-parameter * parameter / 2, parameter, n)
    if name == "pareto":
        return np.asarray((parameter - 1) / parameter * (1 - random.random(n)) ** (-1 / parameter))
    raise ValueError(f"There is no service {kind!r}.")


def poisson(random: Generator, rate: float, n: int) -> NDArray[np.float64]:
    """[n] due times."""
    return random.exponential(1 / rate, n).cumsum()


def in_order(due: NDArray[np.float64], work: NDArray[np.float64], servers: int) -> NDArray[np.float64]:
    """[n] end times of a queue that serves in order of arrival (Kiefer and Wolfowitz, 1955)."""
    end, free = np.empty_like(due), [0.0] * servers
    for i, (at, length) in enumerate(zip(due.tolist(), work.tolist(), strict=True)):
        end[i] = max(at, free[0]) + length
        heapq.heapreplace(free, end[i])
    return end


def shared(due: NDArray[np.float64], work: NDArray[np.float64], servers: int) -> NDArray[np.float64]:
    """[n] end times where all share the servers evenly, as sequences of one batch do."""
    end, virtual, now, i = np.empty_like(due), 0.0, 0.0, 0
    inside: list[tuple[float, int]] = []  # virtual time of the end
    while i < len(due) or inside:
        coming = float(due[i]) if i < len(due) else np.inf
        if inside:
            pace = min(1.0, servers / len(inside))
            first = now + (inside[0][0] - virtual) / pace
            if first <= coming:
                virtual, now = inside[0][0], first
                end[heapq.heappop(inside)[1]] = now
                continue
            virtual += (coming - now) * pace
        now = coming
        heapq.heappush(inside, (virtual + float(work[i]), i))
        i += 1
    return end


def closed(work: NDArray[np.float64], at_once: int, servers: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[n] due and end times of a closed loop before a queue that serves in order."""
    due, end = np.empty_like(work), np.empty_like(work)
    free, streams = [0.0] * servers, [0.0] * at_once
    for i, length in enumerate(work.tolist()):
        due[i] = streams[0]
        end[i] = max(due[i], free[0]) + length
        heapq.heapreplace(free, end[i])
        heapq.heapreplace(streams, end[i])
    return due, end
