"""BurstGPT (Wang et al., 2024): CSV of Timestamp (s), Model, Request tokens, Response tokens, Total tokens and Log
Type; its third part has Session ID and Elapsed time too.

Rows without response tokens are requests that failed; they are counted and passed over, as nothing can be asked again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.lab.bench.workloads.traces.trace import Failed, OverError, Trace, finite, whole

if TYPE_CHECKING:
    from penstock.lab.bench.workloads.traces.trace import Source

_KNOWN = ("Total tokens", "Session ID", "Elapsed time")


def read(source: Source, model: str | None = None, log_type: str | None = None) -> Trace:
    """Of one model or log type alone, if asked.

    Raises InvalidRequestError for a file that is none, and for a bad row unless these are skipped.
    """
    trace = Trace()
    first: float | None = None

    def add(row: list[str]) -> None:
        nonlocal first
        at = finite(row[0], "Timestamp", "seconds")
        after = at - (at if first is None else first)
        if after >= source.stop:
            raise OverError
        first = at if first is None else first
        if (model is not None and row[3] != model) or (log_type is not None and row[4] != log_type):
            return
        outputs = whole(row[2], "Response tokens")
        if outputs == 0:
            raise Failed
        trace.add(after, whole(row[1], "Request tokens"), outputs)

    source.table(trace, ("Timestamp", "Request tokens", "Response tokens", "Model", "Log Type"), _KNOWN, add)
    return trace
