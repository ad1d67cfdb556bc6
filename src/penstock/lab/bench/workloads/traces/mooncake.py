"""Mooncake's traces (Qin et al., FAST 2025): JSONL of timestamp (ms), input_length, output_length and hash_ids.

Each hash id names a block of 512 tokens together with all before it, so two prompts with the same id begin with the
same tokens up to that block's end. Replayed, the same id is the same words: an engine's prefix cache finds what the
real one could. Traces of the same shape with smaller blocks exist; `block_tokens` says how many.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

from penstock.lab.bench.workloads.traces.trace import OverError, RowError, Trace, finite, whole

if TYPE_CHECKING:
    from penstock.lab.bench.workloads.traces.trace import Source


def read(source: Source, block_tokens: int) -> Trace:
    """Raises InvalidRequestError for a file that is none, and for a bad row unless these are skipped."""
    trace = Trace(blocks=[], block_tokens=block_tokens)
    first: float | None = None

    def add(row: dict[str, Any]) -> None:
        nonlocal first
        at, inputs = finite(row["timestamp"], "timestamp", "milliseconds"), whole(row["input_length"], "input_length")
        ids = row["hash_ids"]
        if not isinstance(ids, list) or not all(isinstance(one, int) and not isinstance(one, bool) for one in ids):
            raise RowError("hash_ids is no list of whole numbers")
        if len(ids) != ceil(inputs / block_tokens):
            raise RowError(f"{inputs} input tokens are {ceil(inputs / block_tokens)} blocks, not {len(ids)} hash_ids")
        after = (at - (at if first is None else first)) / 1e3
        if after >= source.stop:
            raise OverError
        trace.add(after, inputs, whole(row["output_length"], "output_length"), ids)
        first = at if first is None else first

    source.objects(trace, add)
    return trace
