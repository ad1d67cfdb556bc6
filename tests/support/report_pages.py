"""Inputs of the laboratory's pages, made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from penstock.core.machine import fingerprint
from penstock.core.record import Attachment, Record, Subject, Workload
from penstock.lab.bench.observations import Ending
from penstock.lab.bench.records import flaws_of, metrics_of
from penstock.lab.bench.slo import Slo
from penstock.lab.pages.compare_page import ComparedEngine, ComparedRatio, ComparePage
from penstock.lab.pages.estimates import Estimate
from penstock.lab.pages.sweep_page import SweepPage, SweepPoint
from support.observed import observed

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.lab.bench.observations import Observations

SLO = Slo.parse("ttft:150ms,tpot:30ms")


def some_run(n: int = 80, seed: int = 1, *, failing: str = "") -> Observations:
    """Answers at ten a second; with `failing`, one in ten breaks off and says that."""
    random = np.random.default_rng(seed)
    gaps = [[0.1 + random.exponential(0.03), *(random.exponential(0.02, random.integers(2, 20)))] for _ in range(n)]
    broken = np.arange(n) % 10 == 7 if failing else np.zeros(n, bool)
    run = observed(
        gaps=gaps, due=(np.arange(n) / 10).tolist(), ending=np.where(broken, Ending.TRUNCATED, Ending.WHOLE).tolist(),
        meta={
            "client": {"schedule_delay_p99": 1e-4, "schedule_delay_max": 2e-4, "loop_lag_p99": 1e-4,
                       "loop_lag_max": 1e-3, "cpu": 1.0, "wall": 10.0},
            "server": {"times": [0.0, 4.0, 8.0], "series": {"running": [1, 3, 2], "waiting": [0, None, 1],
                       "kv_usage": [0.1, 0.4, 0.2]}, "increases": {"finished": float(n)}, "means": {}},
        },
    )  # fmt: skip
    run.details.update(dict.fromkeys(np.flatnonzero(broken).tolist(), failing))
    return run


def save_record(folder: Path, runs: list[Observations], *, name: str = "chat", subject: str = "stub") -> Path:
    """A record with its observations beside it."""
    files = []
    for at, run in enumerate(runs):
        path = folder / f"{name}-{at}.npz"
        run.save(path)
        files.append(Attachment.of(path, folder))
    record = Record(
        subject=Subject(subject, "1", {"slots": 4}),
        workload=Workload(name, 7, {"slo": {"bounds": str(SLO), "share": 0.99}}),
        machine=fingerprint(), git=None, metrics=metrics_of(runs, SLO), files=tuple(files), flaws=flaws_of(runs),
    )  # fmt: skip
    record.save(folder / f"{name}.json")
    return folder / f"{name}.json"


def near(value: float, unit: str, share: float = 0.05) -> Estimate:
    return Estimate(value, unit, value * (1 - share), value * (1 + share))


def some_sweep(saturation: Estimate | None = None, *, name: str = "ttft p99") -> SweepPage:
    """Capacity 10 requests/s."""
    points = [
        SweepPoint(
            load=load, judgement="STABLE" if load <= 10 else "OVERLOADED",
            throughput=near(min(load, 10) * 100, "tokens/s"), requests=near(min(load, 10), "requests/s"),
            goodput=near(load if load <= 10 else 4.0, "requests/s"), meets=load <= 10,
            share_met=1.0 if load <= 10 else 0.4, note=f"tried {load:g}",
            latencies={name: near(0.05 * (1 + load), "s")} if load <= 10 else {},
        )
        for load in (2.0, 16.0, 8.0, 10.0, 12.0)
    ]  # fmt: skip
    return SweepPage(
        title="A sweep", axis="rate", points=points, saturation=saturation, said="It holds 10 requests/s.",
        bound_by="The queue.", evidence=("4 of 4 slots were busy.",), slo=str(SLO),
    )  # fmt: skip


def some_comparison(names: tuple[str, str] = ("alpha", "beta")) -> ComparePage:
    """The first has twice the output of the second."""
    runs = ([20.0, 21.0, 19.0, 20.0], [10.0, 10.5, 9.5, 10.0])
    engines = [
        ComparedEngine(
            name=name, version="1", figures={"output_throughput": near(sum(mine) / 4, "tokens/s")},
            runs={"output_throughput": mine}, settings={"slots": "4", "prefix cache": "off" if at else "on"},
            cost=Estimate(10.0 / mine[0]), tokens=(("counted again", "100 %"),),
        )
        for at, (name, mine) in enumerate(zip(names, runs, strict=True))
    ]  # fmt: skip
    engines.append(ComparedEngine(name="gamma", figures={}, runs={}, settings={}, not_run="it needs a GPU"))
    ratio = ComparedRatio(
        engine=names[0], baseline=names[1], figure="output_throughput", ratio=Estimate(2.0, "1", 1.9, 2.1),
        verdict="faster", pairs=[a / b for a, b in zip(*runs, strict=True)],
    )  # fmt: skip
    return ComparePage(
        title="A comparison", said=f"{names[0]} is faster.", outcome="pass", engines=engines, ratios=[ratio],
        units={"output_throughput": "tokens/s"}, order=(*names, *names[::-1]), margin=0.03, price="1 EUR an hour",
        currency="EUR",
    )  # fmt: skip
