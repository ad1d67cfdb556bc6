"""When requests are due. Open-loop processes give times in seconds after the start, for ever, and the same ones for the
same seed; a closed loop has none, as each of its requests waits for one before it.

Poisson and gamma arrivals as in Zhang et al., BurstGPT (2024): intervals of a gamma distribution with shape 1/b, where
b is the squared coefficient of variation; 1 is Poisson.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from penstock.core.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from penstock.lab.bench.planned import Planned


class Arrivals(Protocol):
    """An arrival process."""

    @property
    def rate(self) -> float | None:
        """Requests/s it offers on average; None: as many as are answered."""

    def times(self, seed: int) -> Iterator[float] | None:
        """Due times that never fall; None for a closed loop."""

    def describe(self) -> dict[str, Any]:
        """For records: its name and parameters."""


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """So many requests on their way at all times."""

    concurrency: int

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise InvalidRequestError(f"Concurrency is at least 1; got {self.concurrency}.", param="concurrency")

    @property
    def rate(self) -> None:
        return None

    def times(self, seed: int) -> None:  # noqa: ARG002 - the protocol's signature
        return None

    def describe(self) -> dict[str, Any]:
        return {"arrivals": "closed", "concurrency": self.concurrency}


@dataclass(frozen=True, slots=True)
class Gamma:
    """Independent intervals; `burstiness` is the squared coefficient of variation: 0 constant, 1 Poisson."""

    rate: float
    burstiness: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1e6:
            raise InvalidRequestError(f"A rate is over 0 and up to a million a second; got {self.rate}.", param="rate")
        if not 0 <= self.burstiness <= 1000:
            raise InvalidRequestError(f"Burstiness is from 0 to 1000; got {self.burstiness}.", param="burstiness")

    def times(self, seed: int) -> Iterator[float]:
        random, at = Random(f"arrivals {seed}"), 0.0
        while True:
            yield at
            if self.burstiness == 0:
                at += 1 / self.rate
            else:
                at += random.gammavariate(1 / self.burstiness, self.burstiness / self.rate)

    def describe(self) -> dict[str, Any]:
        name = {0.0: "constant", 1.0: "poisson"}.get(float(self.burstiness), "gamma")
        return {"arrivals": name, "rate": self.rate, "burstiness": self.burstiness}


def schedule(requests: Iterable[Planned], arrivals: Arrivals, seed: int, count: int | None = None) -> Iterator[Planned]:
    """`requests` with due times of `arrivals`, `count` of them at most; a trace's own times are kept if it has any."""
    times = arrivals.times(seed)
    for planned in islice(requests, count):
        if times is None or planned.due is not None:
            yield planned
        else:
            yield replace(planned, due=next(times))
