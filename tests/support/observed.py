"""Observations made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.lab.bench.observations import Observations

if TYPE_CHECKING:
    from collections.abc import Sequence


def observed(
    *, gaps: Sequence[Sequence[float]], due: Sequence[float] | None = None, meta: dict[str, Any] | None = None,
    **columns: Any,
) -> Observations:  # fmt: skip
    """Whole answers whose pieces came after `gaps`, the first of each since it was due; `columns` replace others."""
    n = len(gaps)
    counts = np.array([len(each) for each in gaps], np.uint32)
    flat = np.array([gap for each in gaps for gap in each], np.float32)
    at = np.arange(n, dtype=np.float64) if due is None else np.array(due, np.float64)
    first = at + np.array([each[0] if len(each) else np.nan for each in gaps], np.float64)
    last = at + np.array([sum(each) if len(each) else np.nan for each in gaps], np.float64)
    zeros = np.zeros(n, np.int32)
    fields: dict[str, Any] = {
        "id": np.arange(n), "due": at, "sent": at, "connected": at, "first_byte": first, "first_text": first,
        "last_text": last, "end": last, "ending": zeros, "status": zeros + 200, "finish": zeros + 2,
        "prompt_tokens": zeros + 10, "completion_tokens": counts.astype(np.int32), "cached_tokens": zeros,
        "text_bytes": zeros, "wanted_prompt": zeros + 10, "wanted_output": counts.astype(np.int32),
        "warm_up": np.zeros(n, bool), "piece_counts": counts, "piece_gaps": flat,
        "piece_tokens": np.zeros(len(flat), np.uint16), "piece_bytes": np.zeros(len(flat), np.uint16),
    }  # fmt: skip
    for name, values in columns.items():
        fields[name] = np.array(values, fields[name].dtype)
    end = float(np.nanmax(last)) if n and np.isfinite(last).any() else 0.0
    return Observations(**fields, meta={"cut": False, "wall": end, "duration": None, "stopped": False} | (meta or {}))
