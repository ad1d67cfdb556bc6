"""Peers beside each other under the same load, one at a time, in rounds, so that slow drift cancels."""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.keep import keep
from benchmarks.workload import OUTPUT_TOKENS, PROMPT_TOKENS
from penstock.core.record import Attachment, Metric, Record, Subject, Workload, git_state
from penstock.lab.bench.engines.process import CpuShares, CpuWatch, Memory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.client import Answer
    from benchmarks.peers import Engine, Peer, Place
    from benchmarks.workload import ModelFiles, Prompts
    from penstock.core.machine import Machine

_WARM_UP_TOKENS = 16
_LONG_REPEAT_S = 20.0  # a point that takes longer is measured once a round
_BUSY_CORES = 0.05


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    concurrency: tuple[int, ...]
    rounds: int
    repeats: int  # of each point, in each round
    output_tokens: int = OUTPUT_TOKENS


@dataclass(frozen=True, slots=True)
class Run:
    """One burst of requests."""

    round: int
    concurrency: int
    answers: list[Answer]
    cpu: CpuShares
    memory: Memory  # right after it

    @property
    def seconds(self) -> float:
        return max(a.arrivals[-1] for a in self.answers) - min(a.sent for a in self.answers)

    @property
    def throughput(self) -> float:
        """Output tokens per second from the first request sent to the last token."""
        return sum(a.tokens for a in self.answers) / self.seconds


@dataclass(slots=True)
class Series:
    """All that was measured of one peer."""

    peer: Peer
    version: str
    configuration: dict[str, Any]
    ready_seconds: list[float]
    runs: list[Run]

    def at(self, concurrency: int) -> list[Run]:
        return [run for run in self.runs if run.concurrency == concurrency]


def measure(peers: Sequence[Peer], plan: Plan, place: Place, model: ModelFiles, prompts: Prompts) -> list[Series]:
    """Every peer in every round; odd rounds go through them backwards."""
    series = {peer.name: Series(peer, "", {}, [], []) for peer in peers}
    probe = prompts.take(1, "probe", tokens=PROMPT_TOKENS)[0]
    for number in range(plan.rounds):
        for peer in peers if number % 2 == 0 else list(reversed(peers)):
            mine = series[peer.name]
            with peer.running(place, model, probe) as engine:
                mine.version, mine.configuration = engine.version, engine.configuration
                mine.ready_seconds.append(engine.ready_seconds)
                print(f"round {number + 1}: {peer.name} {engine.version} ready in {engine.ready_seconds:.1f} s")
                _warm_up(engine, prompts, plan.concurrency[:1] if peer.one_at_a_time else plan.concurrency)
                for concurrency in plan.concurrency:
                    mine.runs += _point(engine, plan, prompts, number, concurrency)
    return list(series.values())


def _warm_up(engine: Engine, prompts: Prompts, batch_sizes: Sequence[int]) -> None:
    """Every batch size once, so that nothing is compiled, packed or paged in while the clock runs."""
    for size in batch_sizes:
        engine.generate(prompts.take(size, "warm-up"), _WARM_UP_TOKENS)


def _point(engine: Engine, plan: Plan, prompts: Prompts, number: int, concurrency: int) -> list[Run]:
    runs: list[Run] = []
    for repeat in range(plan.repeats):
        batch = prompts.take(concurrency, f"round {number} repeat {repeat}")
        start = time.monotonic()
        watch = CpuWatch(engine.child)
        answers = engine.generate(batch, plan.output_tokens)
        cpu = watch.stop()
        run = Run(number, concurrency, answers, cpu, engine.child.memory())
        runs.append(run)
        busy = f"; OTHER PROCESSES USED {cpu.others:.2f} CORES" if cpu.others > _BUSY_CORES else ""
        print(f"  {concurrency:3d} at once: {run.throughput:7.1f} tokens/s{busy}", flush=True)
        if time.monotonic() - start > _LONG_REPEAT_S:
            break
    return runs


def bandwidth_limit(peer: Peer, model: ModelFiles, bandwidth: float, concurrency: int) -> float:
    """Output tokens/s if a step took only the time to read the weights and every stream's KV from memory once.

    With the weights in the form this peer computes from, and KV in 16 bits at the mean length of a stream.
    """
    weights = model.packed_weight_bytes if peer.packed_weights else model.bfloat16_weight_bytes
    streams = 1 if peer.one_at_a_time else concurrency
    kv = model.kv_bytes_per_token * (PROMPT_TOKENS + OUTPUT_TOKENS / 2)
    return streams * bandwidth / (weights + streams * kv)


def write_records(
    all_series: Sequence[Series], plan: Plan, model: ModelFiles, prompts: Prompts, machine: Machine, out: Path
) -> list[Path]:
    """One record for each peer and concurrency, the raw figures beside it."""
    written = []
    for series in all_series:
        for concurrency in plan.concurrency:
            name = f"serving-{series.peer.name}-c{concurrency}.json"
            raw = out / "raw" / name
            raw.parent.mkdir(parents=True, exist_ok=True)
            raw.write_text(json.dumps([_raw(run) for run in series.at(concurrency)], indent=1) + "\n", encoding="utf-8")
            record = Record(
                subject=Subject(series.peer.name, series.version, series.configuration),
                workload=_workload(plan, concurrency, prompts, model),
                machine=machine,
                git=git_state(),
                metrics=tuple(_metrics(series, all_series, model, machine, concurrency)),
                files=(Attachment.of(raw, out),),
                notes=(
                    "ttft, tpot, inter_token and duration pool the requests of all repeats; requests of one burst "
                    "depend on each other, so their intervals are narrower than they should be.",
                    "bandwidth_limit is an upper bound: no arithmetic, no prefill, weights and KV read once a step.",
                    "pss counts what processes share once; ready is from spawning to the first answer.",
                ),
            )
            keep(record, out / name)
            written.append(out / name)
    return written


def _workload(plan: Plan, concurrency: int, prompts: Prompts, model: ModelFiles) -> Workload:
    return Workload(
        "serving",
        prompts.seed,
        {
            "model": model.gguf.name,
            "concurrency": concurrency,
            "prompt_tokens": PROMPT_TOKENS,
            "output_tokens": plan.output_tokens,
            "rounds": plan.rounds,
            "repeats": plan.repeats,
            "sampling": "greedy, end of text ignored",
            "prompts": "random words, no two with the same first token",
            "arrival": "all at once",
        },
    )


def _metrics(
    series: Series, all_series: Sequence[Series], model: ModelFiles, machine: Machine, concurrency: int
) -> list[Metric]:
    runs = series.at(concurrency)
    answers = [answer for run in runs for answer in run.answers]
    columns: dict[tuple[str, str], list[float]] = {
        ("output_throughput", "tokens/s"): [run.throughput for run in runs],
        ("ttft", "s"): [answer.ttft for answer in answers],
        ("tpot", "s"): [answer.tpot for answer in answers],
        ("inter_token", "s"): [gap for answer in answers for gap in answer.gaps],
        ("duration", "s"): [answer.duration for answer in answers],
        ("ready", "s"): series.ready_seconds,
        ("rss", "bytes"): [run.memory.rss for run in runs],
        ("pss", "bytes"): [run.memory.pss for run in runs],
        ("peer_cpu", "cores"): [run.cpu.peer for run in runs],
        ("client_cpu", "cores"): [run.cpu.client for run in runs],
        ("other_cpu", "cores"): [run.cpu.others for run in runs],
        ("stolen_cpu", "cores"): [run.cpu.stolen for run in runs],
    }
    if machine.read_bandwidth:
        limit = bandwidth_limit(series.peer, model, machine.read_bandwidth, concurrency)
        columns["bandwidth_limit", "tokens/s"] = [limit]
        columns["share_of_bandwidth_limit", "1"] = [run.throughput / limit for run in runs]
    for other in all_series:
        if other is not series:
            columns[f"ratio_to_{other.peer.name}", "1"] = _ratios(runs, other.at(concurrency))
    return [Metric.from_samples(name, unit, samples) for (name, unit), samples in columns.items()]


def _ratios(mine: Sequence[Run], theirs: Sequence[Run]) -> list[float]:
    """Median throughput over median throughput, one ratio a round."""

    def medians(runs: Sequence[Run]) -> list[float]:
        numbers = sorted({run.round for run in runs})
        return [statistics.median(run.throughput for run in runs if run.round == number) for number in numbers]

    return [a / b for a, b in zip(medians(mine), medians(theirs), strict=True)]


def _raw(run: Run) -> dict[str, Any]:
    return {
        "round": run.round,
        "throughput": run.throughput,
        "seconds": run.seconds,
        "ttft": [round(answer.ttft, 6) for answer in run.answers],
        "tpot": [round(answer.tpot, 6) for answer in run.answers],
        "pss": run.memory.pss,
        "other_cpu": round(run.cpu.others, 4),
    }
