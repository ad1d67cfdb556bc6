"""Azure LLM inference traces, 2023 and 2024: CSV of TIMESTAMP, ContextTokens and GeneratedTokens.

Times are UTC: with seven digits of the second and no zone in 2023, with six or none and "+00:00" in 2024.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from penstock.lab.bench.workloads.traces.trace import OverError, RowError, Trace, whole

if TYPE_CHECKING:
    from penstock.lab.bench.workloads.traces.trace import Source


def read(source: Source) -> Trace:
    """Raises InvalidRequestError for a file that is none, and for a bad row unless these are skipped."""
    trace = Trace()
    first: datetime | None = None

    def add(row: list[str]) -> None:
        nonlocal first
        try:
            at = datetime.fromisoformat(row[0])
        except ValueError:
            raise RowError(f"TIMESTAMP is no time: {row[0]!r}") from None
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
        after = (at - (first or at)).total_seconds()
        if after >= source.stop:
            raise OverError
        trace.add(after, whole(row[1], "ContextTokens"), whole(row[2], "GeneratedTokens"))
        first = first or at

    source.table(trace, ("TIMESTAMP", "ContextTokens", "GeneratedTokens"), (), add)
    return trace
