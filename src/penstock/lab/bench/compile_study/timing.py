"""The work of the points, done on a runner and timed."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING

from penstock.engine.types import SampleSpec, SamplingParams, SequenceStep, StepBatch
from penstock.lab.bench.compile_study.trial import PointResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from penstock.engine.runners.torch.runner import TorchRunner
    from penstock.lab.bench.compile_study.trial import Point
    from penstock.lab.bench.compile_study.watch import Watch


def blocks_needed(points: Sequence[Point], block_size: int) -> int:
    return max(point.batch * -(-point.length // block_size) for point in points)


def batches_of(point: Point, block_size: int, vocabulary: int, random: Random) -> list[StepBatch]:
    """The steps of a point. Their tokens are random and known beforehand, so that each mode computes the same."""
    greedy = SampleSpec(SamplingParams(temperature=0), 0, (), (), ())
    blocks = -(-point.length // block_size)
    tables = [list(range(i * blocks, (i + 1) * blocks)) for i in range(point.batch)]
    tokens, first = (point.context, 0) if point.kind == "prefill" else (1, point.context)
    batches = []
    for start in range(first, first + point.steps):
        used = -(-(start + tokens) // block_size)
        steps = [
            SequenceStep(str(i), random.choices(range(vocabulary), k=tokens), start, table[:used], greedy)
            for i, table in enumerate(tables)
        ]
        batches.append(StepBatch(steps))
    return batches


def measure(
    runner: TorchRunner,
    work: Sequence[tuple[Point, Sequence[StepBatch]]],
    rounds: int,
    watch: Watch,
    doing: Callable[[str], None],
) -> list[PointResult]:
    """Each point once, which compiles what it needs, then all of them in turn, round by round."""
    firsts, tokens, compiled = [], [], []
    for point, batches in work:
        doing(f"the first time of {point.words}")
        seconds, chosen = _run(runner, batches)
        firsts.append(seconds)
        tokens.append(chosen)
        compiled.append(watch.take(point.name))
    samples: list[list[float]] = [[] for _ in work]
    late = [0] * len(work)
    gc.collect()
    for number in range(rounds):
        doing(f"round {number + 1} of {rounds}")
        for i, (point, batches) in enumerate(work):
            _run(runner, batches[:1])  # what another point has left in the caches is not this one's
            seconds, _ = _run(runner, batches)
            samples[i].append(seconds / len(batches))
            late[i] += watch.take(f"{point.name}, again")
    return [
        PointResult(point, firsts[i], tuple(samples[i]), compiled[i], late[i], tuple(tokens[i]))
        for i, (point, _) in enumerate(work)
    ]


def _run(runner: TorchRunner, batches: Sequence[StepBatch]) -> tuple[float, list[int]]:
    """Seconds, and the tokens chosen (-1: none could be). Choosing waits for the device, so the time is the step's."""
    tokens: list[int] = []
    began = time.perf_counter()
    for batch in batches:
        outputs = runner.execute(batch).sequences
        tokens += [-1 if each.token_id is None else each.token_id for each in outputs]
    return time.perf_counter() - began, tokens
