"""Decode steps of the native runner over threads, streams and contexts, each beside what the machine allows.

The runner is called directly: no HTTP, no scheduler. All streams share the blocks of one prompt, which is computed
once, so that their KV counts once among the bytes that a step must read.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from penstock import __version__
from penstock.core.machine import fingerprint, read_bandwidth
from penstock.core.record import Metric, Record, Subject, Workload, git_state
from penstock.engine.runners.base import RunnerConfig
from penstock.engine.runners.native import NativeRunner
from penstock.engine.types import SampleSpec, SamplingParams, SequenceStep, StepBatch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from penstock.models.spec import ModelSpec

NAME = "roofline"
_BLOCK = 16
_CHUNK = 1024  # tokens of the prompt in a step
_LEAST_STEPS = 7
_LEAST_SECONDS = 0.4
_GREEDY = SamplingParams(temperature=0.0, ignore_eos=True)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the threads can do at most, measured: bytes/s from memory, operations/s."""

    bandwidth: float
    int8: float
    float32: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step must at least do."""

    nbytes: float
    products: float  # operations of products with weights
    attention: float  # float32 operations

    def seconds(self, limits: Limits) -> tuple[float, float]:
        """Reading, and computing."""
        return self.nbytes / limits.bandwidth, self.products / limits.int8 + self.attention / limits.float32


def measure(gguf: Path, threads: Sequence[int], streams: Sequence[int], contexts: Sequence[int]) -> Iterator[Record]:
    """A record for each number of threads; every point is printed as it comes."""
    for count in threads:
        with_most = _Bench(gguf, count, max(contexts), max(streams))
        metrics: list[Metric] = []
        for context in contexts:
            with_most.fill(context)
            for number in streams:
                metrics += with_most.point(number, context)
        yield with_most.record(metrics, streams, contexts)
        with_most.close()


class _Bench:
    def __init__(self, gguf: Path, threads: int, context: int, streams: int) -> None:
        self._gguf = gguf
        self._threads = threads
        self._runner = NativeRunner(
            RunnerConfig(model_path=str(gguf), max_model_len=context + _BLOCK, threads=threads, block_size=_BLOCK)
        )
        self._spec: ModelSpec = self._runner.load()
        capacity = self._runner.kv_capacity()
        self._shared = -(-context // _BLOCK)  # blocks of the prompt; each stream has one more of its own
        self._runner.allocate(self._shared + streams)
        self._weight_bytes = capacity.weight_bytes
        self._kv_bytes = capacity.bytes_per_block / _BLOCK  # a token's
        int8, float32 = self._runner.peak()
        self._limits = Limits(read_bandwidth(threads=threads), int8, float32)
        self._filled = 0

    def fill(self, context: int) -> None:
        """Compute the prompt up to `context` tokens."""
        table = range(self._shared)
        while self._filled < context:
            count = min(_CHUNK, context - self._filled)
            tokens = [(7 * i) % 1000 + 100 for i in range(self._filled, self._filled + count)]
            self._run([SequenceStep("prompt", tokens, self._filled, table, None)])
            self._filled += count

    def point(self, streams: int, context: int) -> list[Metric]:
        """Steps of `streams` sequences, `context` tokens into each."""
        blocks = context // _BLOCK
        steps = [
            SequenceStep(
                str(i), [100 + i], context, [*range(blocks), self._shared + i], SampleSpec(_GREEDY, 0, (), (), ())
            )
            for i in range(streams)
        ]
        self._run(steps)
        self._runner.phases()
        times: list[float] = []
        while len(times) < _LEAST_STEPS or sum(times) < _LEAST_SECONDS:
            began = time.perf_counter()
            self._run(steps)
            times.append(time.perf_counter() - began)
        spent = self._runner.phases()
        reading, computing = self._cost(streams, context).seconds(self._limits)
        limit = max(reading, computing)
        typical = median(times)
        where = f"threads={self._threads} streams={streams} context={context}"
        worst = sorted(spent.items(), key=lambda item: -item[1])
        shares = ", ".join(f"{name} {seconds / sum(times):.0%}" for name, seconds in worst[:4])
        print(
            f"  {where}: {typical * 1e3:.2f} ms, {streams / typical:.0f} tokens/s; {limit / typical:.0%} of what "
            f"{'reading' if reading >= computing else 'computing'} allows; {shares}",
            flush=True,
        )
        point = f"streams={streams} context={context}"
        return [
            Metric.from_samples(f"step {point}", "s", times),
            Metric.from_samples(f"reading {point}", "s", [reading]),
            Metric.from_samples(f"computing {point}", "s", [computing]),
            *(Metric.from_samples(f"phase {name} {point}", "s", [seconds / len(times)]) for name, seconds in worst),
        ]

    def record(self, metrics: Sequence[Metric], streams: Sequence[int], contexts: Sequence[int]) -> Record:
        limits = self._limits
        return Record(
            subject=Subject("penstock", __version__, {**self._runner.describe(), "threads": self._threads}),
            workload=Workload(
                NAME, 0, {"model": self._gguf.name, "streams": list(streams), "contexts": list(contexts)}
            ),
            machine=fingerprint(),
            git=git_state(),
            metrics=(
                Metric.from_samples("read_bandwidth", "bytes/s", [limits.bandwidth]),
                Metric.from_samples("int8_peak", "operations/s", [limits.int8]),
                Metric.from_samples("float32_peak", "operations/s", [limits.float32]),
                *metrics,
            ),
            notes=(
                "All streams share the KV of one prompt, whose bytes count once. Operations: two for each weight and "
                "row in int8, four for each key, query head and dimension in float32.",
            ),
        )

    def close(self) -> None:
        self._runner.shutdown()

    def _cost(self, streams: int, context: int) -> Cost:
        spec = self._spec
        products = 2 * spec.multiplied_parameters * streams
        attention = 4 * context * spec.n_heads * spec.head_dim * spec.n_layers * streams
        return Cost(self._weight_bytes + self._kv_bytes * (context + streams), products, attention)

    def _run(self, steps: list[SequenceStep]) -> None:
        for output in self._runner.execute(StepBatch(steps)).sequences:
            assert output.error is None, output.error
