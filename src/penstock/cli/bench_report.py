"""How a measurement is shown: tables for people, and the record for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.cli.output import note, printable, say, table
from penstock.lab import exits
from penstock.lab.bench.agreement import pairs

if TYPE_CHECKING:
    from penstock.core.record import Interval, Metric, Record
    from penstock.lab.bench.run import Measured

_LATENCIES = {
    "ttft": "TTFT",
    "tpot": "TPOT",
    "itl": "ITL",
    "chunk_gap": "chunk gap",
    "e2e": "E2E",
}
_RATES = {
    "output_throughput": "output tokens/s",
    "total_throughput": "all tokens/s",
    "request_throughput": "requests/s",
    "goodput": "goodput, requests/s",
    "requests": "requests",
}
_SERVER = {
    "finished": "requests",
    "prompt_tokens": "prompt tokens",
    "generation_tokens": "output tokens",
    "ttft": "TTFT, mean",
    "itl": "ITL, mean",
    "tpot": "TPOT, mean",
    "e2e": "E2E, mean",
    "output_throughput": "output tokens/s",
}


_PEAKS = {
    "running": "running {:.0f}",
    "waiting": "waiting {:.0f}",
    "kv_usage": "KV cache {:.0%}",
    "gpu_usage": "GPU {:.0%}",
    "gpu_power": "{:.0f} W",
    "gpu_memory": "{:.3g} bytes of GPU memory",
}


def exit_code(measured: Measured, record: Record) -> int:
    """0, or the first that holds of: cut, every request failed, invalid."""
    if measured.cut:
        return exits.CUT
    if not any(metric.name == "ttft" for metric in record.metrics):
        return exits.FAILED
    return exits.INVALID if measured.invalid else 0


def show(measured: Measured, record: Record) -> None:
    """Print what came of it, notes and flaws after the tables."""
    metrics = {metric.name: metric for metric in record.metrics}
    endpoint = measured.endpoint
    load = ", ".join(f"{name} {value}" for name, value in measured.arrivals.describe().items() if value is not None)
    say(f"{endpoint.model} at {endpoint.url}; {measured.workload.name}; {load}")
    latencies = [_latency_row(title, metrics[name]) for name, title in _LATENCIES.items() if name in metrics]
    if (queue := metrics.get("server_queue")) is not None:
        told = [metrics.get(f"server_queue_{percentile}") for percentile in ("p50", "p90", "p95", "p99")]
        percentiles = ["-" if each is None else _time(each.mean) for each in told]
        latencies.append(["queue (server's)", _time(queue.mean), _interval(queue.ci), *percentiles])
    if latencies:
        say("")
        table(["", "MEAN", "95 % INTERVAL", "P50", "P90", "P95", "P99"], latencies)
    say("")
    rates = [_rate_row(title, metrics[name]) for name, title in _RATES.items() if name in metrics]
    errors = [
        _rate_row(name.replace("_", " "), metric) for name, metric in metrics.items() if name.startswith("errors")
    ]
    table(
        ["", "MEAN OF REPEATS", "LOWEST", "HIGHEST"], rates + [row for row in errors if row[1] != "0" or row[3] != "0"]
    )
    _show_server(measured)
    for line in record.notes:
        note(f"Note: {printable(line)}")
    for flaw in record.flaws:
        note(f"{flaw.kind.upper()}: {flaw.reason}")


def _latency_row(title: str, metric: Metric) -> list[str]:
    cells = (_time(value) for value in (metric.p50, metric.p90, metric.p95, metric.p99))
    return [title, _time(metric.mean), _interval(metric.ci), *cells]


def _rate_row(title: str, metric: Metric) -> list[str]:
    return [title, *(_number(value) for value in (metric.mean, metric.min, metric.max))]


def _show_server(measured: Measured) -> None:
    """The last whole repeat, from both ends."""
    run = next((run for run in reversed(measured.runs) if not run.meta["cut"]), None)
    found = [] if run is None else pairs(run)
    if not found or run is None:
        return
    say("")
    rows = [
        [_SERVER[pair.name], *((_time if pair.unit == "s" else _number)(value) for value in (pair.client, pair.server)),
         f"{pair.difference:+.1%}"]
        for pair in found
    ]  # fmt: skip
    table([f"REPEAT {run.meta['repeat'] + 1}, WARM-UP INCLUDED", "HERE", "BY THE SERVER", "DIFFERENCE"], rows)
    series = run.meta["server"]["series"]
    peaks = {name: max((v for v in values if v is not None), default=None) for name, values in series.items()}
    shown = [words.format(peaks[name]) for name, words in _PEAKS.items() if peaks.get(name) is not None]
    if shown:
        say("At most: " + ", ".join(shown) + ".")


def _time(seconds: float) -> str:
    return (
        f"{seconds:.2f} s"
        if seconds >= 10
        else f"{seconds * 1e3:.2f} ms"
        if seconds < 0.1
        else f"{seconds * 1e3:.0f} ms"
    )


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{_time(max(interval.low, 0.0))} to {_time(interval.high)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 or float(value).is_integer() else f"{value:.2f}"
