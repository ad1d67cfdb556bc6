"""A load that was tried, what came of it, and what bound it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from penstock.lab.bench.run import Measured
    from penstock.lab.bench.stability import Stability

What = Literal["client", "KV memory", "compute", "memory bandwidth", "queue", "nothing"]


@dataclass(frozen=True, slots=True)
class Load:
    """Requests/s, or requests at once."""

    value: float
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Bound:
    """What, and how it is known."""

    what: What
    evidence: str


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Point:
    """A load that was tried."""

    load: Load
    stability: Stability
    share: tuple[float, float] | None = None  # of requests within the SLO, and its error; None: the client spoilt it
    requests: int = 0  # that were due
    response: float = 0.0  # s that an answer took, on average
    invalid: tuple[str, ...] = ()  # why the client can't be believed: no latencies are quoted
    disturbed: bool = False  # the client was so late that not even the verdict can be believed
    cut: bool = False
    measured: Measured | None = None
    bound: Bound | None = None

    @property
    def usable(self) -> bool:
        """Whether its verdict counts."""
        return not self.disturbed and not self.cut
