"""The client's figures beside the server's own sums and counts, over all requests of a run, warm-up included.

Times differ by what lies between the two clocks' ends: the way to the server and back, and what either does before the
first and after the last stamp. The server counts requests that failed at the client too, so agreement is of runs
without failures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from penstock.lab.bench.observations import Ending

if TYPE_CHECKING:
    from penstock.lab.bench.observations import Observations


@dataclass(frozen=True, slots=True)
class Pair:
    """One quantity, seen from both ends."""

    name: str
    unit: str
    client: float
    server: float

    @property
    def difference(self) -> float:
        """Of the client's from the server's, as a share of the server's."""
        return (self.client - self.server) / self.server if self.server else 0.0


def pairs(run: Observations) -> list[Pair]:
    """What both tell of `run`; empty if the server told nothing."""
    told = run.meta.get("server")
    if told is None:
        return []
    whole = run.where(run.ending == Ending.WHOLE)
    if not len(whole):
        return []
    tokens = np.where(whole.completion_tokens > 0, whole.completion_tokens, whole.piece_counts).astype(np.int64)
    prompts = int(whole.prompt_tokens.sum()) if (whole.prompt_tokens >= 0).all() else None
    spread = whole.last_text - whole.first_text
    several = tokens > 1
    seconds = float(np.nanmax(whole.last_text) - whole.due.min())
    client: dict[str, float | None] = {
        "finished": len(whole),
        "prompt_tokens": prompts,
        "generation_tokens": int(tokens.sum()),
        "ttft": float((whole.first_text - whole.due).mean()),
        "itl": float(spread[several].sum() / (tokens[several] - 1).sum()) if several.any() else None,
        "tpot": float((spread[several] / (tokens[several] - 1)).mean()) if several.any() else None,
        "e2e": float((whole.last_text - whole.due).mean()),
    }
    server = told["increases"] | {name: mean["mean"] for name, mean in told["means"].items()}
    units = {"finished": "requests", "prompt_tokens": "tokens", "generation_tokens": "tokens"}
    found = [
        Pair(name, units.get(name, "s"), value, server[name])
        for name, value in client.items()
        if value is not None and server.get(name)
    ]
    if seconds and server.get("generation_tokens"):
        found.append(
            Pair("output_throughput", "tokens/s", int(tokens.sum()) / seconds, server["generation_tokens"] / seconds)
        )
    return found
