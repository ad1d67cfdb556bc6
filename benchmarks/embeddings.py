"""Vectors of all-MiniLM-L6-v2: Penstock's server, HTTP and JSON included, beside sentence-transformers in this process.

Both compute the same weights in float32 on the same cores, in turns of several calls one after the other, on the same
texts, which neither has seen, of lengths as passages have them: a few words to a page. Before each turn there is a
pause, so that threads of the other's that still wait for work take no core from it. A call whose vectors differ by more
than `ALLOWED` stops the run.
"""

from __future__ import annotations

import base64
import json
import random
import socket
import sys
import time
from http.client import HTTPConnection, HTTPException
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.errors import BenchmarkError
from penstock import __version__
from penstock.core.machine import fingerprint
from penstock.core.record import Metric, Record, Subject, Workload, git_state
from penstock.lab.bench.engines.process import Child
from penstock.models.store import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

NAME = "embeddings"
MODEL = "all-minilm-l6-v2"
BATCHES = (1, 64)
ALLOWED = 1e-4
_TURN = 5  # calls
_START_S = 60
_PAUSE_S = 0.2


def measure(logs: Path, repeats: int, seed: int) -> Iterator[Record]:
    """A record for each batch size. Raises BenchmarkError if sentence-transformers isn't installed."""
    if find_spec("sentence_transformers") is None:
        raise BenchmarkError("sentence-transformers isn't installed; `make lint` makes an environment that has it.")
    import sentence_transformers

    path = resolve(MODEL)
    theirs = sentence_transformers.SentenceTransformer(str(path), device="cpu")
    words = _words(path)
    port = _free_port()
    command = [sys.executable, "-m", "penstock.cli", "serve", MODEL, "--port", str(port)]
    child = Child(command, logs / "embeddings.log")
    try:
        client = _connect(port, child)
        ways: dict[str, Callable[[list[str]], NDArray[np.float32]]] = {
            "penstock": lambda texts: _ask(client, texts),
            "sentence_transformers": lambda texts: theirs.encode(texts, batch_size=len(texts)),
        }
        for batch in BATCHES:
            taken, difference = _alternate(ways, words, batch, repeats, seed)
            yield _record(batch, taken, difference, repeats, seed, sentence_transformers.__version__)
        client.close()
    finally:
        child.stop()


def _alternate(
    ways: dict[str, Callable[[list[str]], NDArray[np.float32]]],
    words: Sequence[str],
    batch: int,
    repeats: int,
    seed: int,
) -> tuple[dict[str, list[float]], float]:
    """Seconds of each way's calls, and the greatest difference of any number of their vectors."""
    rng = random.Random(seed + batch)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    difference = 0.0
    for turn in range(-1, -(-repeats // _TURN)):  # the first doesn't count
        calls = [[_text(rng, words) for _ in range(batch)] for _ in range(_TURN)]
        found = {}
        for name in sorted(ways, reverse=turn % 2 == 0):
            time.sleep(_PAUSE_S)
            timed = [_timed(ways[name], texts) for texts in calls]
            found[name] = [vectors for _, vectors in timed]
            if turn >= 0:
                taken[name] += [seconds for seconds, _ in timed]
        apart = (np.abs(own - theirs).max() for own, theirs in zip(*found.values(), strict=True))
        difference = max(difference, *map(float, apart))
    if difference > ALLOWED:
        raise BenchmarkError(f"The vectors differ by {difference:.2g}, more than {ALLOWED}.")
    return taken, difference


def _timed(way: Callable[[list[str]], NDArray[np.float32]], texts: list[str]) -> tuple[float, NDArray[np.float32]]:
    began = time.perf_counter()
    vectors = way(texts)
    return time.perf_counter() - began, vectors


def _record(
    batch: int, taken: dict[str, list[float]], difference: float, repeats: int, seed: int, version: str
) -> Record:
    pairs = zip(taken["sentence_transformers"], taken["penstock"], strict=True)
    metrics = (
        *(Metric.from_samples(name, "s", seconds) for name, seconds in taken.items()),
        Metric.from_samples("speed_up", "1", [theirs / own for theirs, own in pairs]),
        Metric.from_samples("difference", "1", [difference]),
    )
    for metric in metrics:
        print(f"  batch {batch}, {metric.name}: median {metric.p50:.5g} {metric.unit}", flush=True)
    return Record(
        subject=Subject("penstock", __version__, {"model": MODEL, "peer": f"sentence-transformers {version}"}),
        workload=Workload(NAME, seed, {"batch": batch, "calls": repeats, "words": "1 to 180, lognormal around 25"}),
        machine=fingerprint(),
        git=git_state(),
        metrics=metrics,
        notes=(
            "penstock is a server's answer over HTTP to the standard library's client, vectors as base64; "
            "sentence_transformers is a call in a process. speed_up compares calls on the same texts.",
        ),
    )


def _ask(client: HTTPConnection, texts: list[str]) -> NDArray[np.float32]:
    """[texts, 384]"""
    body = json.dumps({"input": texts, "encoding_format": "base64"})
    client.request("POST", "/v1/embeddings", body, {"content-type": "application/json"})
    response = client.getresponse()
    answer = response.read()
    if response.status != 200:
        raise BenchmarkError(f"Penstock answered {response.status}: {answer[:300]!r}")
    return np.stack([np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in json.loads(answer)["data"]])


def _words(path: Path) -> list[str]:
    """Whole words of the model's own vocabulary."""
    from tokenizers import Tokenizer

    vocabulary = Tokenizer.from_file(str(path / "tokenizer.json")).get_vocab()
    return sorted(word for word in vocabulary if word.isascii() and word.isalpha() and len(word) > 2)


def _text(rng: random.Random, words: Sequence[str]) -> str:
    return " ".join(rng.choices(words, k=max(1, min(180, int(rng.lognormvariate(3.2, 0.8))))))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _connect(port: int, child: Child) -> HTTPConnection:
    """A connection to the server once it is ready."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        child.check_alive()
        client = HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            client.request("GET", "/ready")
            response = client.getresponse()
            response.read()
        except (OSError, HTTPException):
            client.close()
            time.sleep(0.05)
            continue
        if response.status == 200:
            return client
        client.close()
    raise BenchmarkError(f"Penstock was not ready after {_START_S} s; see {child.log}.")
