"""What several clients saw of one run, as one run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.lab.bench.observations import PIECES, Observations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_MOST_DETAILS = 200  # of what went wrong, where columns stay behind


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """A part that is over, in a few words. Times in s after the start."""

    extent: tuple[float | None, float | None]  # as `metrics.extent` gives it
    until: float  # its last request ended
    requests: int
    whole: int  # answers
    nbytes: int  # of its columns
    invalid: tuple[str, ...]
    meta: dict[str, Any]  # as `offer` gives it
    details: dict[int, str]


def brief_of(
    seen: Observations, whole: int, extent: tuple[float | None, float | None], invalid: Sequence[str]
) -> Brief:
    """Of a part whose ids are the whole run's."""
    ends = seen.end[~np.isnan(seen.end)]
    columns = (getattr(seen, f.name) for f in fields(seen))
    return Brief(
        extent=extent, until=float(ends.max()) if len(ends) else 0.0, requests=len(seen), whole=whole,
        nbytes=sum(column.nbytes for column in columns if isinstance(column, np.ndarray)), invalid=tuple(invalid),
        meta=seen.meta, details=dict(list(seen.details.items())[:_MOST_DETAILS]),
    )  # fmt: skip


def meta_of(briefs: Sequence[Brief], started: float, started_monotonic: float, *, cut: bool) -> dict[str, Any]:
    """A run's `meta` from those of its parts.

    Of the client's own delays it has the greatest of any part: figures of all parts together are no better than the
    worst of them. A run that was cut ends where the first of its parts did; one that gave up, where the first gave up.

    Args:
        started: Unix time, and `time.monotonic()`, of the start, both on the clock of this process.
    """
    metas = [brief.meta for brief in briefs]
    walls = [meta["wall"] for meta in metas] or [0.0]
    durations = [meta["duration"] for meta in metas if meta["duration"] is not None]
    cut = cut or any(meta["cut"] for meta in metas)
    return {
        "started": started,
        "started_monotonic": started_monotonic,
        "wall": min(walls) if cut else max(walls),
        "clock_drift": max((meta["clock_drift"] for meta in metas), key=abs, default=0.0),
        "client": _worst([meta["client"] for meta in metas]),
        "cut": cut,
        "duration": min(durations, default=None),
        "stopped": any(meta["stopped"] for meta in metas),
        "gave_up": any(meta["gave_up"] for meta in metas),
        "whole": sum(brief.whole for brief in briefs),
    }


def _worst(clients: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not clients:
        return dict.fromkeys(("schedule_delay_p99", "loop_lag_p99", "loop_lag_max", "cpu", "wall"), 0.0)
    busiest = max(clients, key=lambda client: client["cpu"] / client["wall"] if client["wall"] else 0.0)
    delays = {
        name: max(client[name] for client in clients)
        for name in clients[0]
        if name.startswith(("schedule_delay", "loop_lag"))
    }
    kept = {name: busiest[name] for name in ("cpu", "cpu_wait", "wall")}
    return delays | kept | {"retried": sum(client["retried"] for client in clients)}


def together(parts: Sequence[Observations], meta: dict[str, Any]) -> Observations:
    """All requests of all parts in order of their ending. Parts have ids of the whole run."""
    columns: dict[str, NDArray[Any]] = {}
    end = np.concatenate([part.end for part in parts])
    order = np.argsort(end, kind="stable")
    for f in fields(Observations):
        if f.name not in ("texts", "details", "meta", *PIECES):
            columns[f.name] = np.concatenate([getattr(part, f.name) for part in parts])[order]
    counts = np.concatenate([part.piece_counts for part in parts]).astype(np.int64)
    first = (np.cumsum(counts) - counts)[order]
    n = counts[order]
    ends = np.cumsum(n)
    where = np.repeat(first - (ends - n), n) + np.arange(int(ends[-1]) if len(ends) else 0)
    for name in PIECES:
        columns[name] = np.concatenate([getattr(part, name) for part in parts])[where]
    texts = {number: text for part in parts for number, text in part.texts.items()}
    details = {number: text for part in parts for number, text in part.details.items()}
    return Observations(**columns, texts=texts, details=details, meta=meta)


def without_columns(briefs: Sequence[Brief], meta: dict[str, Any]) -> Observations:
    """A run whose columns stayed where they were."""
    empty = Observations.from_native([], 0, dict.fromkeys(("wanted_prompt", "wanted_output"), np.empty(0, np.int32))
                                     | {"warm_up": np.empty(0, bool)}, meta)  # fmt: skip
    for brief in briefs:
        empty.details.update(brief.details)
    return empty
