"""How many greedy requests get another text when others share their batch, in bfloat16 and in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.scenarios.base import make_record, penstock
from penstock.core.record import Metric, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.client import Answer
    from benchmarks.scenarios.base import Setting

NAME = "batch-invariance"
_RUNNERS = (("native", "auto"), ("native", "float32"), ("torch", "bfloat16"))  # with their dtypes
_REQUESTS = 32
_TOKENS = 64
_BATCHES = (8, 32)


def measure(setting: Setting) -> list[Record]:
    """The same requests alone and in batches of 8 and 32; prefix cache off, so that batching alone can differ."""
    records = []
    requests = setting.prompts.take(_REQUESTS, "requests")
    for runner, dtype in _RUNNERS:
        with penstock(setting, "--runner", runner, "--dtype", dtype, "--no-enable-prefix-caching") as engine:
            alone = [engine.generate([prompt], _TOKENS)[0] for prompt in requests]
            metrics = [Metric.from_samples("share_differing_repeated", "1", _differing(alone, [
                engine.generate([prompt], _TOKENS)[0] for prompt in requests
            ]))]  # fmt: skip
            for size in _BATCHES:
                groups = [requests[start : start + size] for start in range(0, _REQUESTS, size)]
                batched = [answer for group in groups for answer in engine.generate(group, _TOKENS)]
                metrics.append(Metric.from_samples(f"share_differing_batch_{size}", "1", _differing(alone, batched)))
        parameters = {"requests": _REQUESTS, "output_tokens": _TOKENS, "batches": list(_BATCHES)}
        notes = ("One sample a request, 0 or 1: the mean is the share whose text differs from the text it gets alone.",)
        records.append(make_record(setting, engine, NAME, parameters, metrics, notes))
    return records


def _differing(alone: Sequence[Answer], batched: Sequence[Answer]) -> list[float]:
    return [float(a.text != b.text) for a, b in zip(alone, batched, strict=True)]
