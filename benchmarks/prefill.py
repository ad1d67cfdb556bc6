"""Prompts by themselves, no token after the first: the native runner beside llama.cpp, each called in its process.

Both sides are up at once and asked in turn, prompt by prompt, so that drift meets both. It is done twice: as both sides
run by themselves, and with both kept to AVX2.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.errors import BenchmarkError
from benchmarks.peers import PEERS
from penstock.core.machine import fingerprint
from penstock.core.record import Metric, Record, Subject, Workload, git_state
from penstock.lab.bench.engines.process import Child

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.peers import Place
    from benchmarks.workload import ModelFiles, Prompts

NAME = "prefill"
_DRIVERS = Path(__file__).parent / "peers" / "drivers"
_CONTEXT = 8192
PATHS = {"best": "llama-cpp-python", "avx2": "llama-cpp-python-avx2"}  # Penstock's path -> the peer's build


@dataclass
class _Side:
    """One program that computes prompts."""

    name: str
    command: Sequence[str]
    log: Path
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._child = Child(self.command, self.log, env=self.env, pipes=True)
        hello = self._read()
        self.version: str = hello["version"]
        self.configuration: dict[str, Any] = hello["configuration"]

    def seconds(self, prompt: Sequence[int]) -> float:
        self._child.stdin.write(json.dumps({"prompts": [prompt]}).encode() + b"\n")
        self._child.stdin.flush()
        (seconds,) = self._read()["seconds"]
        return float(seconds)

    def stop(self) -> None:
        self._child.stop()

    def _read(self) -> dict[str, Any]:
        line = self._child.stdout.readline()
        if not line:
            self._child.stop()
            raise BenchmarkError(f"{self.name} ended; its log is {self.log}.")
        said: dict[str, Any] = json.loads(line)
        return said


def measure(
    place: Place, model: ModelFiles, prompts: Prompts, lengths: Sequence[int], repeats: int
) -> Iterator[tuple[str, Record]]:
    """A record for each side of each pair, with the name its file should have."""
    for path, peer in PATHS.items():
        forced = {} if path == "best" else {"PENSTOCK_CPU_PATH": path}
        sides = [
            _Side(
                "penstock",
                [sys.executable, str(_DRIVERS / "penstock_prefill.py"), str(model.gguf), str(_CONTEXT)],
                place.logs / "prefill-penstock.log",
                forced,
            ),
            _Side(
                peer,
                [
                    str(PEERS[peer].python(place)),
                    str(_DRIVERS / "llama_cpp_prefill.py"),
                    str(model.gguf),
                    str(_CONTEXT),
                ],
                place.logs / f"prefill-{peer}.log",
            ),
        ]
        try:
            speeds = _alternate(sides, prompts, lengths, repeats)
        finally:
            for side in sides:
                side.stop()
        ratios = {
            length: [
                ours / theirs for ours, theirs in zip(speeds["penstock"][length], speeds[peer][length], strict=True)
            ]
            for length in lengths
        }
        for side in sides:
            metrics = _metrics("throughput", "tokens/s", speeds[side.name])
            if side.name == "penstock":
                metrics += _metrics(f"ratio_to_{peer}", "ratio", ratios)
            yield f"{NAME}-{path}-{side.name}", _record(side, path, metrics, model, prompts, lengths)


def _alternate(
    sides: Sequence[_Side], prompts: Prompts, lengths: Sequence[int], repeats: int
) -> dict[str, dict[int, list[float]]]:
    """Tokens/s of each side by the prompt's length."""
    speeds: dict[str, dict[int, list[float]]] = {side.name: {} for side in sides}
    for length in lengths:
        first, *others = prompts.take(repeats + 1, NAME, tokens=length)
        for side in sides:
            side.seconds(first.ids)  # warms up
            speeds[side.name][length] = []
        for number, prompt in enumerate(others):
            for side in sides if number % 2 else reversed(sides):
                speeds[side.name][length].append(length / side.seconds(prompt.ids))
        ours, theirs = (sorted(speeds[side.name][length])[repeats // 2] for side in sides)
        print(
            f"  {length} tokens: {sides[0].name} {ours:.0f} tokens/s, {sides[1].name} {theirs:.0f}: "
            f"{ours / theirs:.1f} times",
            flush=True,
        )
    return speeds


def _metrics(what: str, unit: str, values: dict[int, list[float]]) -> tuple[Metric, ...]:
    return tuple(Metric.from_samples(f"{what} tokens={length}", unit, some) for length, some in values.items())


def _record(
    side: _Side, path: str, metrics: tuple[Metric, ...], model: ModelFiles, prompts: Prompts, lengths: Sequence[int]
) -> Record:
    return Record(
        subject=Subject(side.name, side.version, side.configuration),
        workload=Workload(NAME, prompts.seed, {"model": model.gguf.name, "path": path, "lengths": list(lengths)}),
        machine=fingerprint(),
        git=git_state(),
        metrics=metrics,
        notes=("One prompt at a time, computed in steps of 512 tokens, up to the first token; no HTTP.",),
    )
