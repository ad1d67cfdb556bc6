"""`python -m benchmarks.stability`: how often a sweep's verdicts, and its limits, are right on simulated queues.

Every queue is simulated at loads from 0.7 to 1.2 of its capacity, for runs of several lengths. Where the service's
variance is infinite (pareto with an exponent up to 2), the load of a run is that of the lengths it drew: their mean
falls far from the one they are drawn from.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np

import penstock
from benchmarks.keep import keep
from benchmarks.queues import closed, in_order, poisson, services, shared
from penstock.core.machine import fingerprint
from penstock.core.record import Metric, Record, Subject, Workload, git_state
from penstock.lab.bench.knee import PLATEAU
from penstock.lab.bench.stability import Stability, Verdict, judge_closed_times, judge_times
from penstock.lab.bench.sweep import Plan, Sweep, search
from penstock.lab.bench.tried import Load, Point

_LOADS = (0.7, 0.8, 0.9, 0.95, 0.97, 1.0, 1.03, 1.05, 1.1, 1.2)
_QUEUES = {"fcfs 1": (in_order, 1), "fcfs 8": (in_order, 8), "shared 16": (shared, 16)}
_SERVICES = ("constant", "exponential", "lognormal:1.5", "pareto:2.2", "pareto:1.5")
_LENGTHS = (500, 2000, 8000)
_UNDER, _OVER = 0.97, 1.03  # of the capacity: where OVERLOADED, and where STABLE, are errors
_SWEPT = 16  # servers
_SWEPT_AT_ONCE = 40  # where the most useful number at once is looked for


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stability", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="runs of each queue, load and length")
    parser.add_argument("--sweeps", type=int, default=40, help="sweeps of each service")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "simulated")
    arguments = parser.parse_args()
    rates, metrics = verdicts(arguments.runs)
    metrics += limits(arguments.sweeps)
    record = Record(
        subject=Subject("penstock", penstock.__version__, {"verdicts": "lab/bench/stability.py"}),
        workload=Workload("simulated queues", 0, {"runs": arguments.runs, "sweeps": arguments.sweeps, "rates": rates}),
        machine=fingerprint(), git=git_state(), metrics=tuple(metrics),
        notes=("Simulated: no figure depends on the machine's speed.",),
    )  # fmt: skip
    keep(record, arguments.out / "stability.json", "benchmarks.stability")
    for metric in metrics:
        print(f"{metric.name:48} mean {metric.mean:.4f}  worst {metric.max:.4f}")


def verdicts(runs: int) -> tuple[dict[str, dict[str, float]], list[Metric]]:
    """Shares of verdicts by queue, service, length and load; and the rates of both errors, a sample a setting."""
    rates: dict[str, dict[str, float]] = {}
    false: dict[str, list[float]] = {}
    for queue, (serve, servers) in _QUEUES.items():
        for service in _SERVICES:
            for n in _LENGTHS:
                alarms: Counter[str] = Counter()
                for load in _LOADS:
                    found: Counter[Verdict] = Counter()
                    for run in range(runs):
                        random = np.random.default_rng([run, n, round(100 * load)])
                        due, work = poisson(random, load * servers, n), services(random, service, n)
                        verdict = judge_times(due, serve(due, work, servers), np.ones(n, bool)).verdict
                        found[verdict] += 1
                        real = float(work.sum()) / servers / float(due[-1])
                        kind = f"{service.replace(':', '_')}_{n}"
                        if real <= _UNDER:
                            alarms["under"] += 1
                            alarms["overloaded"] += verdict is Verdict.OVERLOADED
                        elif real >= _OVER:
                            alarms["over"] += 1
                            alarms["stable"] += verdict is Verdict.STABLE
                    rates[f"{queue}, {service}, {n} requests, load {load}"] = {
                        name.value: round(count / runs, 4) for name, count in sorted(found.items())
                    }
                false.setdefault(f"false_overloaded_{kind}", []).append(alarms["overloaded"] / max(1, alarms["under"]))
                false.setdefault(f"false_stable_{kind}", []).append(alarms["stable"] / max(1, alarms["over"]))
    return rates, [Metric.from_samples(name, "1", values) for name, values in false.items()]


def limits(sweeps: int) -> list[Metric]:
    """How far sweeps' limits are off the true ones, how many points they took, and how many intervals hold them."""
    metrics = []
    axes: tuple[tuple[Literal["rate", "concurrency"], float], ...]
    axes = (("rate", _SWEPT), ("concurrency", PLATEAU * _SWEPT_AT_ONCE))
    for axis, limit in axes:
        for service in ("constant", "exponential", "lognormal:1.0", "pareto:2.2"):
            plan = Plan(axis=axis)
            swept = [sweep(service, seed, _SWEPT if axis == "rate" else _SWEPT_AT_ONCE, plan) for seed in range(sweeps)]
            found = [each.limit for each in swept if each.limit is not None]
            name = service.replace(":", "_") if axis == "rate" else f"{axis}_{service.replace(':', '_')}"
            metrics += [
                Metric.from_samples(f"sweep_error_{name}", "1", [abs(each.value / limit - 1) for each in found]),
                Metric.from_samples(f"sweep_points_{name}", "points", [len(each.points) for each in swept]),
                Metric.from_samples(
                    f"sweep_interval_holds_{name}", "1", [each.low <= limit <= each.high for each in found]
                ),
            ]
    return metrics


def sweep(service: str, seed: int, servers: int, plan: Plan | None = None) -> Sweep:
    """Of a simulated queue that serves in order."""
    tried: list[Load] = []

    def trial(load: Load, requests: int, _seconds: float) -> Point:
        tried.append(load)
        random = np.random.default_rng([seed, len(tried)])
        found: Stability
        if load.closed:
            requests = max(100, 6 * int(load.value), requests)
            due, end = closed(services(random, service, requests), int(load.value), servers)
            found = judge_closed_times(due, end, np.ones(requests, bool))
        else:
            due, work = poisson(random, load.value, requests), services(random, service, requests)
            found = judge_times(due, in_order(due, work, servers), np.ones(requests, bool))
        return Point(load=load, stability=found, requests=requests, response=1.0)

    return search(plan or Plan(), trial)


if __name__ == "__main__":
    main()
