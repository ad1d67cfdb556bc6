"""What the process of one mode is asked, and what it answers: JSON on its standard input and output."""

from __future__ import annotations

from typing import Literal

import msgspec

Shapes = Literal["automatic", "bucketed"]


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of work.

    A decode point is `steps` steps in turn of `batch` sequences, whose first has `context` tokens before it, so that
    contexts grow as they do when a model answers. A prefill point is one step of a prompt of `context` tokens.
    """

    kind: Literal["prefill", "decode"]
    batch: int
    context: int  # tokens
    steps: int = 1

    @property
    def name(self) -> str:
        """As metrics call it."""
        return f"decode_b{self.batch}" if self.kind == "decode" else f"prefill_{self.context}"

    @property
    def words(self) -> str:
        if self.kind == "prefill":
            return f"a prompt of {self.context} tokens"
        return f"decode, batch of {self.batch}"

    @property
    def length(self) -> int:
        """Tokens of a sequence at the end."""
        return self.context + (self.steps if self.kind == "decode" else 0)


class Ask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One process's work."""

    model_path: str
    mode: str
    shapes: Shapes
    points: tuple[Point, ...]
    rounds: int
    device: str  # "cpu", "cuda", "mps": where it was decided to run
    dtype: str
    threads: int | None
    block_size: int
    seed: int


class Compilation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One piece of code compiled, or given up."""

    function: str
    file: str
    line: int
    seconds: float
    operations: int  # in the graph
    reason: str  # of a recompile: the guard that didn't hold; "": the first of this code
    failure: str = ""  # why it runs uncompiled
    point: str = ""  # during which


class Break(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A place where the compiler had to end a graph, or left a function alone."""

    file: str
    line: int
    function: str
    code: str
    reason: str
    skipped: bool  # the whole function runs uncompiled


class PointResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`first` is what the point took when it came for the first time, `samples` the seconds a step took on average in
    each round thereafter."""

    point: Point
    first: float
    samples: tuple[float, ...]
    compilations: int  # when it came for the first time
    late_compilations: int  # in the rounds
    tokens: tuple[int, ...]  # chosen greedily, step by step


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes. `before` with the model loaded, `after` everything ran; GPU figures are the allocator's."""

    before: int
    after: int
    peak: int
    gpu_after: int | None = None
    gpu_peak: int | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one process saw."""

    points: tuple[PointResult, ...]
    compilations: tuple[Compilation, ...]
    breaks: tuple[Break, ...]
    memory: Memory
    described: dict[str, str]  # by the runner

    @property
    def overhead(self) -> float:
        """Seconds that the first time took more than the same work later."""
        return sum(
            max(0.0, each.first - each.point.steps * sorted(each.samples)[len(each.samples) // 2])
            for each in self.points
        )


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """What it is about to do."""

    doing: str


class Done(msgspec.Struct, frozen=True, tag="done"):
    answer: Answer


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    reason: str


Told = Progress | Done | Failed
