"""Time to the first token of a prompt whose first 2048 tokens were seen before, against one never seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.errors import BenchmarkError
from benchmarks.scenarios.base import make_record, penstock
from penstock.core.record import Metric, Record

if TYPE_CHECKING:
    from benchmarks.scenarios.base import Setting

NAME = "prefix-cache"
_SHARED = 2048
_OWN = 32


def measure(setting: Setting) -> list[Record]:
    """Each repeat takes a new prefix and sends two prompts that begin with it, one after the other."""
    first: list[float] = []
    second: list[float] = []
    with penstock(setting) as engine:
        for number in range(-1, setting.repeats):  # the first pair warms up
            prefix = setting.prompts.take(1, f"prefix {number}", tokens=_SHARED)[0]
            pair = setting.prompts.take(2, f"pair {number}", tokens=_SHARED + _OWN, prefix=prefix)
            cold, warm = (engine.generate([prompt], 4)[0] for prompt in pair)
            if (warm.cached_tokens or 0) < _SHARED or cold.cached_tokens:
                raise BenchmarkError(
                    f"Cached tokens: {cold.cached_tokens} of the first, {warm.cached_tokens} of the second."
                )
            if number >= 0:
                first.append(cold.ttft)
                second.append(warm.ttft)
    metrics = [
        Metric.from_samples("ttft_first", "s", first),
        Metric.from_samples("ttft_second", "s", second),
        Metric.from_samples("ttft_ratio", "1", [warm / cold for cold, warm in zip(first, second, strict=True)]),
    ]
    return [make_record(setting, engine, NAME, {"shared_tokens": _SHARED, "own_tokens": _OWN}, metrics)]
