"""What it costs to report on a measurement of a million requests.

The observations are made, not measured: latencies and gaps are lognormal, each answer of so many pieces. Then a process
of its own makes the record and the page from the file, as `penstock bench report` does; its wall time, from being
started to having ended, and its peak resident memory are what is measured. It reads the file from the page cache.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from penstock import __version__
from penstock.core.machine import fingerprint
from penstock.core.record import Metric, Record, Subject, Workload, git_state
from penstock.lab.bench.observations import Observations
from penstock.lab.bench.records import metrics_of
from penstock.lab.bench.slo import Slo
from penstock.lab.pages.render_html import render
from penstock.lab.pages.run_page import RunPage, run_page

NAME = "load-report"
_RATE = 1000.0  # requests/s
_SLO = "ttft:500ms,itl:200ms"


def measure(requests: int, pieces: int, repeats: int, seed: int) -> Record:
    """The record of reporting on `requests` answers of `pieces` pieces."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.npz"
        made(requests, pieces, seed).save(file)
        nbytes = file.stat().st_size
        found = [_once(file) for _ in range(repeats)]
    return Record(
        subject=Subject("penstock", __version__, {"slo": _SLO}),
        workload=Workload(NAME, seed, {"requests": requests, "pieces": pieces, "file_bytes": nbytes}),
        machine=fingerprint(),
        git=git_state(),
        metrics=(
            Metric.from_samples("report", "s", [seconds for seconds, _ in found]),
            Metric.from_samples("report_rss", "bytes", [rss for _, rss in found]),
        ),
    )


def made(requests: int, pieces: int, seed: int) -> Observations:
    """Observations of a run that never was."""
    random = np.random.default_rng(seed)
    due = np.sort(random.uniform(0, requests / _RATE, requests))
    gaps = random.standard_normal(requests * pieces, np.float32)
    np.exp(gaps * np.float32(0.6) + np.float32(np.log(0.02)), out=gaps)
    first = np.arange(requests) * pieces
    gaps[first] = random.lognormal(np.log(0.2), 0.5, requests)
    first_text, last_text = due + gaps[first], due + np.add.reduceat(gaps, first, dtype=np.float64)
    zeros = np.zeros(requests, np.int32)
    columns: dict[str, Any] = {
        "id": np.arange(requests), "due": due, "sent": due, "connected": due, "first_byte": first_text,
        "first_text": first_text, "last_text": last_text, "end": last_text, "ending": zeros, "status": zeros + 200,
        "finish": zeros + 2, "prompt_tokens": zeros + 100, "completion_tokens": zeros + pieces, "cached_tokens": zeros,
        "text_bytes": zeros + 4 * pieces, "wanted_prompt": zeros + 100, "wanted_output": zeros + pieces,
        "warm_up": np.zeros(requests, bool), "piece_counts": np.full(requests, pieces, np.uint32), "piece_gaps": gaps,
        "piece_tokens": np.zeros(len(gaps), np.uint16), "piece_bytes": np.full(len(gaps), 4, np.uint16),
    }  # fmt: skip
    health = dict.fromkeys(("schedule_delay", "loop_lag"), 1e-4)
    client = {f"{name}_{q}": value for name, value in health.items() for q in ("p50", "p99", "max")}
    wall = float(last_text.max())
    meta: dict[str, Any] = {
        "started": 0.0, "wall": wall, "clock_drift": 0.0, "cut": False, "duration": None, "stopped": False,
        "invalid": [], "client": client | {"cpu": 0.1 * wall, "wall": wall, "retried": 0},
    }  # fmt: skip
    return Observations(**columns, meta=meta)


def report_on(file: Path) -> str:
    """The record's figures and the page of a file of observations: HTML."""
    seen, slo = Observations.load(file), Slo.parse(_SLO)
    return render(run_page(RunPage(title="Load", metrics=metrics_of([seen], slo), runs=[seen], slo=slo)))


def _once(file: Path) -> tuple[float, int]:
    """Seconds and bytes of a process that reports on `file`."""
    command = (sys.executable, "-m", "benchmarks.load_report", str(file))
    start = time.perf_counter()
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent).stdout
    return time.perf_counter() - start, int(said)


def _peak_memory() -> int:
    """This process's, in bytes, as Linux tells; `getrusage` would count what its parent had when it was forked."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    report_on(Path(sys.argv[1]))
    print(_peak_memory())
