"""A trace asked again: its lengths, its arrival times in a window and at a speed, its shared prefixes if it has any.

What: each row becomes one request at its time, of random words in exactly its lengths.
Trade-offs: a trace at another `speed` keeps its shape but not its burstiness in seconds; `max_input` and `max_output`
cut what a small model can't take, which changes the load, so the record says how many were cut.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING, Any

from penstock.core.errors import InvalidRequestError
from penstock.lab.bench.planned import Planned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.lab.bench.workloads.traces.trace import Trace
    from penstock.lab.bench.workloads.wordlist import Form, WordList

_KEPT_BLOCKS = 1024  # of words, in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Ends with the trace, or its window."""

    name: str
    seed: int
    words: WordList
    form: Form
    file: str
    trace: Trace
    speed: float = 1.0
    start: float = 0.0  # s after the trace's first request
    stop: float = math.inf
    max_input: int | None = None
    max_output: int | None = None
    timed: bool = True  # whether requests are due at the trace's times

    def __post_init__(self) -> None:
        if not self.start < self.stop:
            raise InvalidRequestError(f"from={self.start:g} is not before to={self.stop:g}.", param="from")
        if not self.rows:
            last = self.trace.at[-1]
            raise InvalidRequestError(
                f"{self.file} has no request from {self.start:g} to {self.stop:g} s; its last is at {last:.1f} s.",
                param="from",
            )

    @property
    def rows(self) -> range:
        """Those of the window."""
        return range(bisect_left(self.trace.at, self.start), bisect_left(self.trace.at, self.stop))

    def describe(self) -> dict[str, Any]:
        """For records; `prefix_hits` as in `prefix_hit_ratio`."""
        rows, trace = self.rows, self.trace
        cut = sum(
            trace.inputs[row] > (self.max_input or math.inf) or trace.outputs[row] > (self.max_output or math.inf)
            for row in rows
        )
        shown = {
            "file": self.file, "requests": len(rows), "speed": self.speed, "from": self.start,
            "to": None if math.isinf(self.stop) else self.stop, "timing": "trace" if self.timed else "none",
            "max_input": self.max_input, "max_output": self.max_output, "cut": cut, "bad_rows": trace.bad,
            "failed_rows": trace.failed, "ignored_columns": list(trace.ignored), "prompt": self.form,
            "exact": self.words.exact,
        }  # fmt: skip
        return shown | ({"prefix_hits": round(self.prefix_hit_ratio(), 4)} if trace.blocks is not None else {})

    def prefix_hit_ratio(self) -> float:
        """Share of prompt tokens that a prefix cache without limit would find, requests taken one after the other."""
        seen: set[int] = set()
        hits = total = 0
        for row in self.rows:
            inputs = self._input(row)
            total += inputs
            if self.trace.blocks is None:
                continue
            size, ids = self.trace.block_tokens, self.trace.blocks[row]
            ids = ids[: math.ceil(inputs / size)]
            found = next((place for place, one in enumerate(ids) if one not in seen), len(ids))
            hits += min(found * size, inputs)
            seen.update(ids)
        return hits / total

    def requests(self) -> Iterator[Planned]:
        """Those of the window."""
        trace, random = self.trace, Random(f"trace {self.seed}")
        first = random.randrange(1 << 40)
        block = lru_cache(_KEPT_BLOCKS)(self._block)
        for row in self.rows:
            wanted = self._input(row)
            own = self.words.count(wanted, self.form)
            if trace.blocks is None:
                drawn = self.words.draw(random, own, first + row)
            else:
                ids = trace.blocks[row][: math.ceil(own / trace.block_tokens)]
                drawn = [one for number in ids for one in block(number)][:own]
            yield Planned(
                prompt=self.words.prompt(drawn, self.form),
                max_tokens=min(trace.outputs[row], self.max_output or trace.outputs[row]),
                due=(trace.at[row] - self.start) / self.speed if self.timed else None,
                prompt_tokens=wanted if self.words.exact else None,
            )

    def _input(self, row: int) -> int:
        return min(self.trace.inputs[row], self.max_input or self.trace.inputs[row])

    def _block(self, number: int) -> list[int]:
        return self.words.draw(Random(f"block {self.seed} {number}"), self.trace.block_tokens, number)
