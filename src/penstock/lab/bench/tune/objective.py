"""What a run is worth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from penstock.core.errors import InvalidRequestError
from penstock.core.suggest import did_you_mean
from penstock.lab.bench.compare.judging import cost
from penstock.lab.bench.metrics import latencies, totals

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from penstock.lab.bench.observations import Observations
    from penstock.lab.bench.slo import Slo


@dataclass(frozen=True, slots=True)
class Objective:
    """One figure of a run, over zero."""

    name: str
    words: str
    unit: str
    higher: bool  # more of it is better
    price: float | None = None  # of the machine, an hour

    @classmethod
    def find(cls, name: str, *, slo: Slo | None, price: float | None) -> Self:
        """Raises InvalidRequestError for a name that there isn't, or one that lacks an SLO or a price."""
        if name not in OBJECTIVES:
            known = ", ".join(OBJECTIVES)
            raise InvalidRequestError(
                f"There is no objective {name!r}.{did_you_mean(name, list(OBJECTIVES))} There are {known}.",
                param="objective",
            )
        words, unit, higher = OBJECTIVES[name]
        if name == "goodput" and slo is None:
            raise InvalidRequestError("Goodput is what meets an --slo, such as ttft:500ms,tpot:50ms.", param="slo")
        if name == "cost" and price is None:
            raise InvalidRequestError("Cost needs the machine's --price-per-hour.", param="price_per_hour")
        return cls(name, words, unit, higher, price)

    def of(self, run: Observations, slo: Slo | None) -> float | None:
        """None if the run has no such figure: no whole answers, or none that met the SLO."""
        found = latencies(run)
        sums = totals(run, found, slo)
        if self.name == "throughput":
            value = sums.output_throughput
        elif self.name == "goodput":
            value = sums.goodput or 0.0
        elif self.name == "cost":
            met = 1.0 if sums.met is None else sums.met / max(1, sums.whole)  # what failed the SLO is of no use
            value = sums.output_throughput * met
            value = cost(value, self.price or 0.0) if value > 0 else 0.0
        else:
            name, percent = self.name.split("-p")
            samples = {"ttft": found.ttft, "tpot": found.tpot[~np.isnan(found.tpot)], "e2e": found.e2e}[name]
            value = float(np.percentile(samples, int(percent))) if len(samples) else 0.0
        return value if value > 0 and math.isfinite(value) else None


# Name -> words, unit, whether more is better.
OBJECTIVES: Mapping[str, tuple[str, str, bool]] = {
    "throughput": ("output throughput", "tokens/s", True),
    "goodput": ("goodput", "requests/s", True),
    "ttft-p50": ("p50 TTFT", "s", False),
    "ttft-p99": ("p99 TTFT", "s", False),
    "tpot-p50": ("p50 TPOT", "s", False),
    "tpot-p99": ("p99 TPOT", "s", False),
    "e2e-p50": ("p50 end to end", "s", False),
    "e2e-p99": ("p99 end to end", "s", False),
    "cost": ("cost of a million output tokens", "1", False),
}
