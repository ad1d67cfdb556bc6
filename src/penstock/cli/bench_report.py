"""How a measurement is shown: a table for people, the record for programs, and an exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from penstock.cli.output import note, table
from penstock.lab import exits
from penstock.lab.bench.metrics import latencies, totals

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.lab.bench.metrics import Latencies, Totals
    from penstock.lab.bench.run import Measured
    from penstock.lab.bench.settings import BenchSettings
    from penstock.lab.bench.setup import Setup


def report(settings: BenchSettings, setup: Setup, measured: Measured, *, as_json: bool) -> int:
    """Print what came of it; the exit code."""
    found = [latencies(run) for run in measured.runs]
    sums = [totals(run, latency, measured.slo) for run, latency in zip(measured.runs, found, strict=True)]
    _tables(found, sums)
    for line in (*setup.notes, *measured.invalid):
        note(line)
    return exit_code(measured, sums)


def exit_code(measured: Measured, sums: list[Totals]) -> int:
    """0, or the first of: cut, all failed, invalid."""
    if measured.cut:
        return exits.CUT
    if not any(each.whole for each in sums):
        return exits.FAILED
    return exits.INVALID if measured.invalid else 0


def _tables(found: list[Latencies], sums: list[Totals]) -> None:
    times: list[tuple[str, Callable[[Latencies], np.ndarray]]] = [
        ("TTFT", lambda each: each.ttft),
        ("TPOT", lambda each: each.tpot[~np.isnan(each.tpot)]),
        ("chunk gap", lambda each: each.chunk_gaps),
        ("E2E", lambda each: each.e2e),
    ]
    rows = []
    for name, values in times:
        samples = np.concatenate([values(each) for each in found])
        if len(samples):
            cells = [samples.mean(), *np.percentile(samples, [50, 90, 95, 99])]
            rows.append([name, *(f"{cell * 1e3:.1f} ms" for cell in cells)])
    table(["", "MEAN", "P50", "P90", "P95", "P99"], rows)
    rates = [
        ("output tokens/s", [each.output_throughput for each in sums]),
        ("requests/s", [each.request_throughput for each in sums]),
    ]
    table(["", *(f"REPEAT {i + 1}" for i in range(len(sums)))], [[n, *(f"{v:.2f}" for v in vs)] for n, vs in rates])
