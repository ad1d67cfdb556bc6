"""What each load generator adds: the stub on one processor, the client on another, one after the other in turn."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.errors import BenchmarkError
from benchmarks.keep import keep
from benchmarks.load.clients import CLIENTS, Asked, Client, Said, pinned
from penstock.core.machine import fingerprint
from penstock.core.record import Metric, Record, Subject, Workload, git_state
from penstock.lab.bench.endpoint import Endpoint
from penstock.lab.bench.scrape import Scraper

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_TTFT_S, _ITL_S = 0.1, 0.1
_SLACK_S = 180.0  # for a client to start and to sum up
_SEED = 1
_AGREED = 1.03
_MODULE = "benchmarks.load"


@dataclass(frozen=True, slots=True)
class Seen:
    """One run, as the client and the stub saw it."""

    said: Said
    stub_ttft_mean: float
    stub_ttft_p99: float
    arrival_delay_p99: float  # requests that reached the stub later than the earliest of them makes due
    tokens_per_s: float  # written by the stub while answers began and ended at the same rate
    streams: int  # at once, at most
    requests: int


def measure(
    names: Sequence[str], rates: Sequence[float], seconds: float, rounds: int, tokens: int, venvs: Path,
    tokenizer: Path, out: Path,
) -> None:  # fmt: skip
    """Every client at every rate, `rounds` times, the order turned round each time; a record each."""
    for rate in rates:
        runs: dict[str, list[Seen]] = {name: [] for name in names}
        failed: dict[str, str] = {}
        for number in range(rounds):
            for name in names if number % 2 == 0 else reversed(names):
                folder = out / "raw" / f"load-{name}-{rate:g}-{number}-{int(time.time())}"
                folder.mkdir(parents=True)
                try:
                    seen = _once(CLIENTS[name], rate, max(1, round(rate * seconds)), tokens, venvs, tokenizer, folder)
                except (BenchmarkError, subprocess.SubprocessError) as error:
                    failed[name] = str(error)
                    print(f"{name} at {rate:g} requests/s: {error}", flush=True)
                    continue
                runs[name].append(seen)
                _tell(name, rate, seen)
        for name in names:
            if runs[name]:
                record = _record(CLIENTS[name], rate, tokens, seconds, runs[name], venvs, failed.get(name))
                keep(record, out / f"load-{name}-{rate:g}.json", _MODULE)


def _once(
    client: Client, rate: float, count: int, tokens: int, venvs: Path, tokenizer: Path, folder: Path
) -> Seen:  # fmt: skip
    stub = [
        sys.executable, "-m", "penstock.cli", "bench", "stub", "--port", "0", "--json",
        "--ttft", str(_TTFT_S), "--itl", str(_ITL_S),
    ]  # fmt: skip
    with subprocess.Popen(pinned(stub, 1), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as serving:
        try:
            assert serving.stdout is not None
            url = json.loads(serving.stdout.readline())["url"]
            asked = Asked(url, "stub", tokenizer, rate, count, tokens)
            _offer(client, asked, venvs, folder, count / rate + tokens * _ITL_S + _SLACK_S)
            with urllib.request.urlopen(url + "/truth", timeout=60) as page:
                truth = [json.loads(line) for line in page.read().splitlines()]
        finally:
            serving.terminate()
            serving.wait(30)
    return seen_of(client.read(folder), truth, count, rate)


def _offer(client: Client, asked: Asked, venvs: Path, folder: Path, limit: float) -> None:
    """Run a client for at most `limit` seconds; one that shares the server's processor would measure itself."""
    command = pinned(client.command(asked, venvs, folder), 0)
    with (folder / "client.log").open("w") as log:
        subprocess.run(
            ["env", *(f"{k}={v}" for k, v in client.environment().items()), *command],
            stdout=log, stderr=log, timeout=limit, check=False,
        )  # fmt: skip


def seen_of(said: Said, truth: list[dict[str, Any]], count: int, rate: float) -> Seen:
    """What a client said beside the stub's rows of its last `count` whole answers, which were due evenly at `rate`/s.

    The throughput is that of the time in which as many answers end as begin: from a typical answer's length after the
    first request to the last request; of all the time where there is no such stretch. An answer's tokens count evenly
    between its first and its last.

    Raises:
        BenchmarkError: there is no whole answer.
    """
    # A client may try the server first; the load itself comes last.
    rows = sorted((row for row in truth if row["whole"]), key=lambda row: row["received"])[-count:]
    if not rows:
        raise BenchmarkError("The stub answered nothing whole.")
    received, first, last = (
        np.array([row[name] for row in rows], float) / 1e9 for name in ("received", "first", "last")
    )
    tokens = np.array([row["tokens"] for row in rows], float)
    steps = np.concatenate([np.stack([received, np.ones(len(rows))]), np.stack([last, -np.ones(len(rows))])], axis=1)
    streams = int(np.cumsum(steps[1][np.argsort(steps[0], kind="stable")]).max())
    begin, end = received[0] + float(np.median(last - received)), received[-1]
    if begin >= end:
        begin, end = received[0], last.max()
    length = np.maximum(last - first, 1e-9)  # of an answer of a single piece, too
    shares = np.clip(np.minimum(first + length, end) - np.maximum(first, begin), 0.0, None) / length
    against_schedule = received - np.arange(len(rows)) / rate
    ttft = first - received
    return Seen(
        said, float(ttft.mean()), float(np.percentile(ttft, 99)),
        float(np.percentile(against_schedule - against_schedule.min(), 99)),
        float((tokens * shares).sum() / (end - begin)), streams, len(rows),
    )  # fmt: skip


def _tell(name: str, rate: float, seen: Seen) -> None:
    print(
        f"{name} at {rate:g} requests/s: {seen.tokens_per_s:.0f} tokens/s, {seen.streams} streams at once, TTFT p99"
        f" {seen.said.ttft_p99 * 1e3:.2f} ms where the stub took {seen.stub_ttft_p99 * 1e3:.2f} ms, requests up to"
        f" {seen.arrival_delay_p99 * 1e3:.2f} ms late there (p99), {seen.said.whole} of {seen.requests} whole",
        flush=True,
    )


def _record(
    client: Client, rate: float, tokens: int, seconds: float, runs: list[Seen], venvs: Path, failed: str | None
) -> Record:
    figures = {
        "added_ttft_p99": ("s", [run.said.ttft_p99 - run.stub_ttft_p99 for run in runs]),
        "added_ttft_mean": ("s", [run.said.ttft_mean - run.stub_ttft_mean for run in runs]),
        "ttft_p99": ("s", [run.said.ttft_p99 for run in runs]),
        "arrival_delay_p99": ("s", [run.arrival_delay_p99 for run in runs]),
        "output_throughput": ("tokens/s", [run.tokens_per_s for run in runs]),
        "streams": ("requests", [float(run.streams) for run in runs]),
    }
    asked = {"rate": rate, "tokens": tokens, "seconds": seconds, "ttft": _TTFT_S, "itl": _ITL_S}
    return Record(
        subject=Subject(client.name, _version(client, venvs), {"processors": 1}),
        workload=Workload("load", _SEED, asked),
        machine=fingerprint(),
        git=git_state(),
        metrics=tuple(Metric.from_samples(name, unit, values) for name, (unit, values) in figures.items()),
        notes=(
            "The client has processor 0, the stub processor 1. TTFT as the client reports it, less the stub's own time"
            " from a request's receipt to its first piece; the difference is of the percentiles.",
            "Only Penstock counts TTFT from the moment a request was due, the others from its sending; how late they"
            " reached the stub is in arrival_delay_p99, for all of them.",
            "The throughput and the streams at once are as the stub saw them.",
            *([f"A run failed: {failed}"] if failed else []),
        ),
    )


def _version(client: Client, venvs: Path) -> str:
    code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    distribution = client.requirements[0].partition("==")[0] if client.requirements else client.home or "penstock"
    done = subprocess.run(
        [str(client.python(venvs)), "-c", code, distribution], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def agree(asked: Asked, rounds: int, venvs: Path, out: Path) -> bool:
    """Penstock's and guidellm's mean TTFT and inter-token latency of the same load on a server that is up, in turn
    (ABBA), each as a share of the server's own of those requests: an engine is faster in one run than in the next.
    Prints and keeps them and the shares' ratios; whether both are within 3 %."""
    clients = ("penstock", "guidellm")
    seen: dict[str, dict[str, list[float]]] = {name: {} for name in clients}
    for number in range(rounds):
        for name in clients if number % 2 == 0 else reversed(clients):
            for figure, value in _beside_the_server(CLIENTS[name], asked, number, venvs, out).items():
                seen[name].setdefault(figure, []).append(value)
    metrics, within = [], True
    for figure in ("ttft", "itl"):
        ours, theirs = (np.array(seen[name][figure]) / np.array(seen[name][f"server_{figure}"]) for name in clients)
        ratios = (ours / theirs).tolist()
        mean = math.exp(float(np.mean(np.log(ratios))))
        within &= 1 / _AGREED < mean < _AGREED
        print(f"{figure}: {mean:.4f} of guidellm's {ratios}", flush=True)
        metrics.append(Metric.from_samples(f"{figure}_ratio", "1", ratios))
    for name, figures in seen.items():
        for figure, values in figures.items():
            print(f"{name} {figure}: {', '.join(f'{1e3 * value:.3f}' for value in values)} ms", flush=True)
            metrics.append(Metric.from_samples(f"{figure}_{name}", "s", values))
    load = {"rate": asked.rate, "requests": asked.count, "prompt": asked.prompt, "tokens": asked.tokens}
    record = Record(
        subject=Subject("penstock", _version(CLIENTS["penstock"], venvs)),
        workload=Workload("load-agreement", _SEED, load),
        machine=fingerprint(),
        git=git_state(),
        metrics=tuple(metrics),
        notes=(
            f"Penstock's mean over that of guidellm {_version(CLIENTS['guidellm'], venvs)}, same engine, in turn, each"
            " over the server's own of that client's requests (server_ttft_NAME).",
        ),
    )
    keep(record, out / "load-agreement.json", _MODULE)
    return within


def _beside_the_server(client: Client, asked: Asked, number: int, venvs: Path, out: Path) -> dict[str, float]:
    """A client's means, and the server's own of the same requests, in seconds."""
    folder = out / "raw" / f"agree-{client.name}-{number}-{int(time.time())}"
    folder.mkdir(parents=True)
    scraper = Scraper.find(Endpoint.open(asked.url, model=asked.model))
    if scraper is None:
        raise BenchmarkError(f"{asked.url} has no /metrics.")
    with scraper.window() as window:
        _offer(client, asked, venvs, folder, asked.count / asked.rate + _SLACK_S)
    scraper.settle(window, asked.count)
    said = client.read(folder)
    found = {"ttft": said.ttft_mean, "itl": said.itl_mean}
    if said.server_ttft is not None and said.server_itl is not None:  # without the request that tried the server
        return found | {"server_ttft": said.server_ttft, "server_itl": said.server_itl}
    for figure in tuple(found):
        mean = window.mean(figure)
        if mean is None or window.increase("finished") != asked.count:
            raise BenchmarkError(f"The server's own {figure} isn't of {client.name}'s {asked.count} requests alone.")
        found[f"server_{figure}"] = mean[0]
    return found
