"""What engines count, side by side: the same text has the same tokens whoever serves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from penstock.lab.bench import counts
from penstock.lab.bench.metrics import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.lab.bench.counts import Encoding
    from penstock.lab.bench.observations import Observations

_MOST_CACHED = 0.01  # share of prompt tokens


@dataclass(frozen=True, slots=True)
class Counted:
    """Over all whole answers of one engine."""

    counts: counts.Counts
    cached: float | None  # share of prompt tokens that came from a prefix cache; None: not told

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """For tables."""
        found = self.counts
        return (
            ("answers", str(found.answers)),
            ("output tokens an answer", f"{found.tokens / found.answers:.1f}" if found.answers else "–"),
            ("told by the engine", "yes" if found.answers and found.told == found.answers else "no"),
            ("its count over the tokenizer's", _or_dash(found.ratio, ".3f")),
            ("tokens a chunk", _or_dash(found.tokens_per_piece, ".2f")),
            ("shorter than asked for", str(found.short)),
            ("prompt tokens from a prefix cache", _or_dash(self.cached, ".1%")),
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What of it makes a comparison unfair."""
        said = self.counts.doubts()
        if self.cached is not None and self.cached > _MOST_CACHED:
            said.append(f"{self.cached:.0%} of its prompt tokens came from a prefix cache.")
        return tuple(said)


def count(runs: Sequence[Observations], tokenizer: Encoding | None) -> Counted:
    """`tokenizer` is the model's; None: nothing is counted again."""
    prompts = cached = 0
    for run in runs:
        told = counted(run) & (run.prompt_tokens > 0) & (run.cached_tokens >= 0)
        prompts += int(np.sum(run.prompt_tokens[told]))
        cached += int(np.sum(run.cached_tokens[told]))
    return Counted(counts.count(runs, tokenizer), cached / prompts if prompts else None)


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
