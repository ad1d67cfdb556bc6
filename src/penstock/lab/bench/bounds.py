"""What bound a load: the client, memory for keys and values, places in the batch, or the computing itself.

The server's own metrics (`scrape`) say it where there are any. Without them the client sees half of it: if answers
begin later than on a quiet server but are written as fast, requests wait for a place; if they are written more slowly
too, the computing is shared by more of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.lab.bench.metrics import latencies
from penstock.lab.bench.tried import Bound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.lab.bench.tried import Point

_CPU = 0.9  # of the generator's thread
_KV_FULL = 0.95  # usage, of which the scheduler keeps a little
_PREEMPTED = 0.01  # of the requests that finished
_BUSY = 0.9  # of a GPU's time
_STREAMS = 0.7  # of a GPU's memory bandwidth, which nothing reaches whole
_WAITING = 1.0  # requests, on average
_SLOWER = 1.5  # times what it was on a quiet server
_WAITED = 2.0


def what_bound(point: Point, before: Sequence[Point]) -> Bound | None:
    """Of a point that was just tried; None: nothing is known of it.

    Args:
        before: the points tried before; the quietest of them is what it is held against.
    """
    if point.measured is None or not point.measured.runs:
        return None
    run = point.measured.runs[0]
    client = run.meta["client"]
    if point.invalid:
        return Bound("client", point.invalid[0])
    if client["wall"] and client["cpu"] > _CPU * client["wall"]:
        return Bound("client", f"its thread was busy for {client['cpu'] / client['wall']:.0%} of the time")
    told = run.meta.get("server")
    found = None if told is None else by_server(told, run.meta.get("duration") or run.meta["wall"])
    if found is not None:
        return found
    quiet = next((each for each in before if each.measured and each.usable), None)
    return None if quiet is None or quiet.measured is None else _by_client(point, quiet)


def by_server(told: Mapping[str, Any], seconds: float) -> Bound | None:
    """From what the server exported over the run's first `seconds`; None if that decides nothing."""
    series = {
        name: np.array([v for at, v in zip(told["times"], values, strict=True) if v is not None and 0 <= at <= seconds])
        for name, values in told["series"].items()
    }
    series = {name: values[len(values) // 5 :] for name, values in series.items() if len(values)}
    increases = {name: value or 0.0 for name, value in told["increases"].items()}

    def mean(name: str) -> float:
        return float(series[name].mean()) if name in series else 0.0

    kv = float(np.quantile(series["kv_usage"], 0.9)) if "kv_usage" in series else 0.0
    preempted = increases.get("preemptions", 0.0) / max(increases.get("finished", 0.0), 1.0)
    if preempted > _PREEMPTED:
        return Bound("KV memory", f"{preempted:.1%} of the requests were preempted")
    if kv >= _KV_FULL and mean("waiting") >= _WAITING:
        return Bound("KV memory", f"{kv:.0%} of the KV cache were in use, and {mean('waiting'):.0f} requests waited")
    if mean("gpu_memory_usage") >= _STREAMS:
        return Bound("memory bandwidth", f"the GPU read its memory for {mean('gpu_memory_usage'):.0%} of the time")
    if mean("waiting") >= _WAITING and "running" in series:
        most, typical = float(series["running"].max()), float(np.median(series["running"]))
        if typical >= 0.95 * most:
            return Bound("queue", f"{mean('waiting'):.0f} requests waited while the batch had all it takes, {most:.0f}")
    if mean("gpu_usage") >= _BUSY:
        return Bound("compute", f"the GPU computed for {mean('gpu_usage'):.0%} of the time")
    if "waiting" in series and mean("waiting") < _WAITING and "running" not in series:
        return Bound("nothing", "no request waited")
    return None


def _by_client(point: Point, quiet: Point) -> Bound | None:
    if point.measured is None or quiet.measured is None:
        return None
    here, there = latencies(point.measured.runs[0]), latencies(quiet.measured.runs[0])
    if not len(here.ttft) or not len(there.ttft):
        return None
    later = float(np.median(here.ttft) / max(float(np.median(there.ttft)), 1e-6))
    pace, before = here.tpot[~np.isnan(here.tpot)], there.tpot[~np.isnan(there.tpot)]
    slower = float(np.median(pace) / max(float(np.median(before)), 1e-6)) if len(pace) and len(before) else 1.0
    if slower > _SLOWER:
        return Bound("compute", f"tokens came {slower:.1f} times as slowly as on the quiet server")
    if later > _WAITED:
        said = "while its tokens came as fast" if len(pace) else "after it"
        return Bound("queue", f"the first token came {later:.1f} times as late as on the quiet server, {said}")
    return Bound("nothing", "answers came about as fast as on the quiet server")
