"""How near `penstock bench sweep` comes to the capacity of a `penstock bench stub` over HTTP, and in how many steps.

A stub with slots serves slots / (mean service time) requests/s; its timers, and a busy machine, make services longer
than they were drawn, so the capacity that counts is that of the services it says it had (`/truth`). Half a sweep's
requests are in overloaded points, so their mean is known far better than the limit. In concurrency, what is looked for
is the fewest requests at once that give 95 % of the highest throughput, which is 95 % of the slots. A stub without
slots has no limit, and the sweep must say so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

from benchmarks.errors import BenchmarkError
from penstock import __version__
from penstock.core.machine import fingerprint
from penstock.core.record import Metric, Record, Subject, Workload, git_state
from penstock.lab import exits
from penstock.lab.bench.knee import PLATEAU

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "sweeps"
SERVICES = {  # of 40 ms on average
    "constant": "40ms",
    "exponential": "exponential:40ms",
    "lognormal": "lognormal:24.261ms,1",
}
AXES = ("rate", "concurrency")
_SLOTS = 40
_TRIES = 3  # of a sweep whose client was late
_MAX_RATE = 500.0  # of the stub without a limit


def measure(services: list[str], axes: list[str], sweeps: int, budget: float) -> Record:
    """The record; a sample is a sweep, its stub and its prompts of a seed of their own."""
    samples: dict[str, tuple[str, list[float]]] = {}

    def sample(name: str, unit: str, value: float) -> None:
        samples.setdefault(name, (unit, []))[1].append(value)

    for service in services:
        for axis in axes:
            for seed in range(sweeps):
                found, mean = _once(SERVICES[service], axis, seed, budget)
                real = PLATEAU * _SLOTS if axis == "concurrency" else _SLOTS / mean
                metrics = {each["name"]: each["mean"] for each in found["metrics"]}
                name = f"{axis}_{service}"
                limit = metrics.get("saturation", 0.0)
                sample(f"sweep_error_{name}", "1", abs(limit / real - 1))
                sample(f"sweep_points_{name}", "points", metrics["points"])
                print(
                    f"{name} {seed}: {limit:.5g} found, {real:.5g} real ({limit / real - 1:+.2%}),"
                    f" {metrics['points']:.0f} points",
                    flush=True,
                )
    for seed in range(sweeps):
        with _stub("exponential:5ms", seed) as url:
            found = _swept(url, seed, 60.0, "--max-rate", str(_MAX_RATE), "--requests", "1000")
        none = all(each["name"] != "saturation" for each in found["metrics"])
        sample("sweep_no_limit_found_without_one", "1", float(none))
        print(f"no limit {seed}: {'said so' if none else 'found one'}", flush=True)
    return Record(
        subject=Subject("penstock", __version__),
        workload=Workload(
            NAME, 0, {"sweeps": sweeps, "budget_s": budget, "slots": _SLOTS, "services": SERVICES, "asked": services}
        ),
        machine=fingerprint(),
        git=git_state(),
        metrics=tuple(Metric.from_samples(name, unit, values) for name, (unit, values) in samples.items()),
        notes=("Errors are shares of the limit that the stub's own services make; finding none counts as 1.",),
    )  # fmt: skip


def _once(service: str, axis: str, seed: int, budget: float) -> tuple[dict[str, Any], float]:
    """The sweep's record, and the mean of the stub's services in seconds."""
    with _stub(service, seed, "--slots", str(_SLOTS)) as url:
        found = _swept(url, seed, budget, "--axis", axis, "--max-concurrency", str(8 * _SLOTS))
        with urlopen(f"{url}/truth", timeout=60) as answer:
            lines = [json.loads(line) for line in answer]
    held = [line["last"] - line["started"] for line in lines if line["whole"]]
    return found, sum(held) / len(held) / 1e9


def _swept(url: str, seed: int, budget: float, *options: str) -> dict[str, Any]:
    command = [
        *(sys.executable, "-m", "penstock.cli", "bench", "sweep", url, "--budget", str(budget), "--seed", str(seed)),
        *("--input-tokens", "4", "--output-tokens", "1", "--quiet", "--json", *options),
    ]
    for _ in range(_TRIES):
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode in (0, exits.INCONCLUSIVE):
            found: dict[str, Any] = json.loads(ran.stdout)
            return found
        if ran.returncode != exits.INVALID:
            break
        print("the client was late: again", flush=True)
    raise BenchmarkError(f"The sweep of {url} ended with {ran.returncode}: {ran.stderr or 'the client was late'}")


@contextmanager
def _stub(service: str, seed: int, *options: str) -> Iterator[str]:
    command = [
        *(sys.executable, "-m", "penstock.cli", "bench", "stub", "--port", "0", "--json", "--seed", str(seed)),
        *("--ttft", service, "--itl", "0ms", *options),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()
