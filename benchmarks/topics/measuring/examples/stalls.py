"""A server that stands still for half a second, as two ways of asking it see that.

A client that asks when the answer before is there asks one request during the stall: of a hundred a single one is late.
Requests that are due whether or not there are answers tell how long people would have waited.

    python stalls.py
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from penstock.lab.bench.endpoint import Endpoint
from penstock.lab.bench.metrics import latencies
from penstock.lab.bench.offer import Manner, offer
from penstock.lab.bench.planned import Planned
from penstock.lab.bench.stub import Stub

if TYPE_CHECKING:
    from collections.abc import Iterable


def p90(requests: Iterable[Planned], manner: Manner) -> float:
    """Of the time to the first token, in s."""
    with Stub(ttft=0.005, itl=0.0, stalls=["0.3s:0.5s"]) as stub:
        return float(np.percentile(latencies(offer(Endpoint.open(stub.url), requests, manner)).ttft, 90))


def main() -> None:
    in_turn = p90((Planned(prompt="Hello", max_tokens=1) for _ in range(10_000)), Manner(slots=1, duration=1.0))
    when_due = p90((Planned(prompt="Hello", max_tokens=1, due=i / 100) for i in range(100)), Manner())
    print(f"p90 TTFT: {1e3 * in_turn:.0f} ms one after the other, {1e3 * when_due:.0f} ms from when they were due")
    if when_due < 10 * in_turn:
        sys.exit("The stall should show in requests that were due during it.")


if __name__ == "__main__":
    main()
