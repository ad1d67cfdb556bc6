"""What a record says of the workers that offered its load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.lab.bench.histogram import RELATIVE_ERROR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.lab.bench.observations import Observations


def parameters_of(runs: Sequence[Observations]) -> dict[str, Any]:
    """For a record's workload: each repeat's workers, and where percentiles are from; nothing if there was one client.

    Times are in s: `clock_ahead` is a worker's monotonic clock less this machine's, known to within
    `clock_uncertainty`; `clock_drift` is how much more it was ahead when the run was over.
    """
    told = [run.meta["spread"]["workers"] for run in runs if "spread" in run.meta]
    return {"workers": told, "percentiles": "merged HDR histograms"} if told else {}


def notes_of(runs: Sequence[Observations]) -> list[str]:
    """For people."""
    told = [run.meta["spread"] for run in runs if "spread" in run.meta]
    if not told:
        return []
    workers = [worker for each in told for worker in each["workers"]]
    hosts = dict.fromkeys(worker["host"] for worker in workers)
    apart = max(worker["clock_uncertainty"] + abs(worker["clock_drift"] or 0.0) for worker in workers)
    words = [
        f"{len(told[0]['workers'])} workers on {', '.join(hosts)} offered this load. Their clocks were aligned to"
        f" within {apart * 1e3:.2f} ms. Percentiles of latencies are from their histograms, merged without loss, and"
        f" within {RELATIVE_ERROR:.2%} of the exact ones."
    ]
    if not all(each["columns"] for each in told):
        words.append("What was seen of each request stayed with the workers; --raw fetches it.")
    return words
