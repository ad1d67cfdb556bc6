"""When requests are due. Open-loop processes give times in seconds after the start, the same ones for the same seed; a
closed loop has none, as each of its requests waits for one before it.

Poisson and gamma arrivals as in Wang et al., BurstGPT (2024): intervals of a gamma distribution with shape 1/b, where
b is the squared coefficient of variation; 1 is Poisson. Rates that change are a change of time: a process of rate 1
runs on a clock that has gone, at each moment, as far as requests were expected until then.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from penstock.core.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    from penstock.lab.bench.planned import Planned


class Arrivals(Protocol):
    """An arrival process."""

    @property
    def rate(self) -> float | None:
        """Requests/s it offers on average; None: as many as are answered."""

    def times(self, seed: int) -> Iterator[float] | None:
        """Due times that never fall, for ever or until the process is over; None for a closed loop."""

    def describe(self) -> dict[str, Any]:
        """For records: its name and parameters."""


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """So many requests on their way at all times; the first of them evenly over `ramp` seconds, not all at once."""

    concurrency: int
    ramp: float = 0.0

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise InvalidRequestError(f"Concurrency is at least 1; got {self.concurrency}.", param="concurrency")
        if not 0 <= self.ramp <= 86400:
            raise InvalidRequestError(f"A ramp takes 0 to 86400 seconds; got {self.ramp}.", param="ramp")

    @property
    def rate(self) -> None:
        return None

    def times(self, seed: int) -> None:  # noqa: ARG002 - the protocol's signature
        return None

    def describe(self) -> dict[str, Any]:
        return {"arrivals": "closed", "concurrency": self.concurrency} | ({"ramp": self.ramp} if self.ramp else {})


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
        at = 0.0
        for interval in _intervals(self.burstiness, seed):
            yield at
            at += interval / self.rate

    def describe(self) -> dict[str, Any]:
        name = {0.0: "constant", 1.0: "poisson"}.get(float(self.burstiness), "gamma")
        return {"arrivals": name, "rate": self.rate, "burstiness": self.burstiness}


@dataclass(frozen=True, slots=True)
class Stage:
    """A rate that goes in a straight line from `start` to `end` requests/s in so many seconds."""

    start: float
    end: float
    seconds: float

    def __post_init__(self) -> None:
        if not all(0 <= rate <= 1e6 for rate in (self.start, self.end)):
            raise InvalidRequestError(f"A rate is from 0 to a million a second; got {self}.", param="rate")
        if not 0 < self.seconds <= 1e7:
            raise InvalidRequestError(f"A stage takes over 0 and up to 10 million seconds; got {self}.", param="rate")

    def __str__(self) -> str:
        rates = f"{self.start:g}" if self.start == self.end else f"{self.start:g}-{self.end:g}"
        return f"{rates}:{self.seconds:g}"

    @property
    def expected(self) -> float:
        """Requests."""
        return (self.start + self.end) / 2 * self.seconds

    def when(self, requests: float) -> float:
        """Seconds into the stage by which so many requests are expected."""
        slope = (self.end - self.start) / self.seconds
        # The root of slope/2 t^2 + start t = requests in the form that loses no digits for a slope near 0.
        root = self.start + math.sqrt(max(0.0, self.start**2 + 2 * slope * requests))
        return min(self.seconds, 2 * requests / root) if root else 0.0


@dataclass(frozen=True, slots=True)
class Stages:
    """Rates that change: steps and ramps one after the other; after the last one nothing more comes."""

    stages: tuple[Stage, ...]
    burstiness: float = 1.0

    @classmethod
    def ramp(cls, start: float, end: float, seconds: float, burstiness: float = 1.0) -> Self:
        """From one rate to another."""
        return cls((Stage(start, end, seconds),), burstiness)

    @classmethod
    def parse(cls, text: str, burstiness: float = 1.0) -> Self:
        """Stages as `RATE:SECONDS` or, for a ramp, `FROM-TO:SECONDS`, with commas between them.

        >>> str(Stages.parse("5:30,5-20:60").stages[1])
        '5-20:60'

        Raises:
            InvalidRequestError: they can't be read, or are out of range.
        """
        stages = []
        for part in text.split(","):
            found = re.fullmatch(r"\s*([\d.]+)(?:-([\d.]+))?:([\d.]+)\s*", part)
            try:
                start, end, seconds = (float(found[i] or found[1]) for i in (1, 2, 3)) if found else (0.0, 0.0, 0.0)
            except ValueError:
                found = None
            if not found:
                raise InvalidRequestError(
                    f"{part.strip()!r} is no stage: write RATE:SECONDS, or FROM-TO:SECONDS for a ramp, such as"
                    " 5:30,5-20:60.",
                    param="steps",
                )
            stages.append(Stage(start, end, seconds))
        return cls(tuple(stages), burstiness)

    def __post_init__(self) -> None:
        if not 0 <= self.burstiness <= 1000:
            raise InvalidRequestError(f"Burstiness is from 0 to 1000; got {self.burstiness}.", param="burstiness")
        if not any(stage.expected for stage in self.stages):
            raise InvalidRequestError("Stages of rate 0 offer nothing.", param="steps")

    @property
    def seconds(self) -> float:
        """How long it is."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def rate(self) -> float:
        """Requests/s on average."""
        return sum(stage.expected for stage in self.stages) / self.seconds

    def times(self, seed: int) -> Iterator[float]:
        began = passed = 0.0  # seconds, and requests expected, before the stage
        at = 0.0  # on the clock of expected requests
        intervals = _intervals(self.burstiness, seed)
        for stage in self.stages:
            while at < passed + stage.expected:
                yield began + stage.when(at - passed)
                at += next(intervals)
            began, passed = began + stage.seconds, passed + stage.expected

    def describe(self) -> dict[str, Any]:
        return {"arrivals": "stages", "stages": ",".join(map(str, self.stages)), "burstiness": self.burstiness}


def _intervals(burstiness: float, seed: int) -> Iterator[float]:
    """Independent, of mean 1."""
    random = Random(f"arrivals {seed}")
    while True:
        yield 1.0 if burstiness == 0 else random.gammavariate(1 / burstiness, burstiness)


def schedule(requests: Iterable[Planned], arrivals: Arrivals, seed: int, count: int | None = None) -> Iterator[Planned]:
    """`requests` with due times of `arrivals`, `count` of them at most; a trace's own times are kept if it has any.

    They are over when the arrivals are. A closed loop that ramps up sets the times of its first round alone.
    """
    if isinstance(arrivals, ClosedLoop):
        pause = arrivals.ramp / arrivals.concurrency
        for number, planned in enumerate(islice(requests, count)):
            early = pause and number < arrivals.concurrency and planned.due is None
            yield replace(planned, due=number * pause) if early else planned
        return
    times = arrivals.times(seed)
    for planned in islice(requests, count):
        if times is None or planned.due is not None:
            yield planned
        elif (due := next(times, None)) is not None:
            yield replace(planned, due=due)
        else:
            return
