"""What rounding costs: the native runner's ways to compute, on a text, each beside float32.

All share the weights of one file. Three measures: perplexity, which is what a model is judged by; the Kullback-Leibler
divergence of the next token's distribution from the reference's, which no luck of the text can hide; and how often the
likeliest token is the same, which is how often greedy decoding takes the same step.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from math import exp
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from benchmarks.errors import BenchmarkError
from penstock import __version__
from penstock.core.machine import fingerprint
from penstock.core.record import Metric, Record, Subject, Workload, git_state
from penstock.engine.runners.base import RunnerConfig
from penstock.engine.runners.native import NativeRunner
from penstock.engine.runners.select import make_runner
from penstock.engine.types import SequenceStep, StepBatch
from penstock.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from penstock.engine.runners.base import ModelRunner

    Runner = TypeVar("Runner", bound=ModelRunner)

NAME = "quality"
TOKENS = 512  # in a window
_BLOCK = 16
_TABLE = range(TOKENS // _BLOCK)
_CHUNK = 64  # positions whose scores exist at a time


@dataclass(frozen=True, slots=True)
class Way:
    """How products take activations, how keys and values are kept, and how far perplexity may move for it."""

    products: str  # "int8" or "float32"
    kv: str
    allowed: float  # relative

    def config(self, gguf: Path, threads: int, runner: str = "native") -> RunnerConfig:
        return RunnerConfig(
            model_path=str(gguf),
            runner=runner,
            device="cpu",
            dtype="float32" if self.products == "float32" else "auto",
            kv_cache_dtype=self.kv,
            threads=threads,
            block_size=_BLOCK,
            max_model_len=TOKENS,
        )


EXACT = Way("float32", "float32", 5e-4)  # held against torch
WAYS = (
    Way("float32", "float16", 5e-4),
    Way("float32", "int8", 2e-3),
    Way("int8", "float16", 5e-3),
    Way("int8", "int8", 5e-3),
)


@dataclass(frozen=True, slots=True)
class Text:
    """Windows of a text, evenly spread over it, as tokens without special ones."""

    name: str
    sha256: str
    windows: tuple[tuple[int, ...], ...]

    @classmethod
    def read(cls, path: Path, gguf: Path, windows: int) -> Text:
        """Raises BenchmarkError if the text can't be read or is too short."""
        try:
            content = path.read_bytes()
            ids = Tokenizer.load(gguf).encode(content.decode(), add_special_tokens=False)
        except (OSError, UnicodeDecodeError) as error:
            raise BenchmarkError(f"The text {path} can't be read: {error}.") from error
        if len(ids) < windows * TOKENS:
            raise BenchmarkError(f"{path} has {len(ids)} tokens; {windows} windows take {windows * TOKENS}.")
        starts = (i * (len(ids) // windows) for i in range(windows))
        return cls(path.name, hashlib.sha256(content).hexdigest(), tuple(tuple(ids[at : at + TOKENS]) for at in starts))


@dataclass(frozen=True, slots=True)
class Difference:
    """A window computed in two ways."""

    nll: float  # nats a token
    reference_nll: float
    divergence: float = 0.0  # nats
    agreement: float = 1.0  # share of positions


def measure(gguf: Path, text: Text, threads: int) -> Iterator[Record]:
    """A record for each way to compute; and for float32 beside torch, where torch is installed."""
    reference = _ready(NativeRunner(EXACT.config(gguf, threads)))
    for way in WAYS:
        runner = _ready(NativeRunner(way.config(gguf, threads)))
        found = [_beside(runner, reference, window) for window in text.windows]
        yield _record(runner, way, "native float32", gguf, text, found)
        runner.shutdown()
    if find_spec("torch") is None:
        print("  torch isn't installed, so float32 goes without its reference", flush=True)
    else:
        torch = _ready(make_runner(EXACT.config(gguf, threads, "torch")))
        found = [Difference(_nll(reference, window), _nll(torch, window)) for window in text.windows]
        yield _record(reference, EXACT, "torch float32", gguf, text, found)
        torch.shutdown()
    reference.shutdown()


def compare(logprobs: NDArray[np.float64], reference: NDArray[np.float64], following: Sequence[int]) -> NDArray:
    """Sums over positions of two ways' log probabilities, `[positions, vocab]` each: of `-log p` of the tokens that
    follow, in one and in the other, of the divergence, and of agreements. The last position may have no follower."""
    at = np.arange(len(following)), np.array(following, dtype=np.intp)
    return np.array(
        [
            -logprobs[at].sum(),
            -reference[at].sum(),
            (np.exp(reference) * (reference - logprobs)).sum(),
            (logprobs.argmax(-1) == reference.argmax(-1)).sum(),
        ]
    )


def _ready(runner: Runner) -> Runner:
    runner.load()
    runner.allocate(len(_TABLE))
    return runner


def _beside(runner: NativeRunner, reference: NativeRunner, window: Sequence[int]) -> Difference:
    sums = np.zeros(4)
    for start in range(0, len(window), _CHUNK):
        following = window[start + 1 : start + 1 + _CHUNK]
        sums += compare(_logprobs(runner, window, start), _logprobs(reference, window, start), following)
    nll, reference_nll = sums[:2] / (len(window) - 1)
    divergence, agreement = sums[2:] / len(window)
    return Difference(float(nll), float(reference_nll), float(divergence), float(agreement))


def _logprobs(runner: NativeRunner, window: Sequence[int], start: int) -> NDArray[np.float64]:
    """Of the tokens after a chunk's positions; all chunks before it have been computed."""
    scores = np.array(runner.logits(window[start : start + _CHUNK], start, _TABLE), dtype=np.float64)
    scores -= scores.max(-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def _nll(runner: ModelRunner, window: Sequence[int]) -> float:
    """Nats a token, as the runner itself reports them: what any runner can be asked."""
    total = 0.0
    for start in range(0, len(window), _CHUNK):
        tokens, following = window[start : start + _CHUNK], window[start + 1 : start + 1 + _CHUNK]
        step = SequenceStep(NAME, tokens, start, _TABLE, None, 0, following)
        [output] = runner.execute(StepBatch([step])).sequences
        if output.error is not None:
            raise BenchmarkError(f"A window could not be computed: {output.error}")
        total -= sum(position.chosen.logprob for position in output.prompt_logprobs)
    return total / (len(window) - 1)


def _record(
    runner: ModelRunner, way: Way, reference: str, gguf: Path, text: Text, found: Sequence[Difference]
) -> Record:
    moved = Metric.from_samples("nll_difference", "nats/token", [d.nll - d.reference_nll for d in found])
    metrics = [
        Metric.from_samples("nll", "nats/token", [d.nll for d in found]),
        Metric.from_samples("reference_nll", "nats/token", [d.reference_nll for d in found]),
        moved,
    ]
    if reference.startswith("native"):  # of other runners only the text's own tokens are known
        metrics.append(Metric.from_samples("divergence", "nats", [d.divergence for d in found]))
        metrics.append(Metric.from_samples("agreement", "1", [d.agreement for d in found]))
    told = [
        f"perplexity {exp(moved.mean) - 1:+.4%} beside {reference}",
        *(f"{m.name} {m.mean:.6f}" for m in metrics[3:]),
    ]
    print(f"  {way.products} products, {way.kv} KV: {', '.join(told)}", flush=True)
    return Record(
        subject=Subject("penstock", __version__, runner.describe()),
        workload=Workload(
            NAME,
            0,
            {
                "model": gguf.name, "text": text.name, "text_sha256": text.sha256, "windows": len(text.windows),
                "tokens": TOKENS, "products": way.products, "kv": way.kv, "reference": reference,
                "allowed": way.allowed,
            },
        ),
        machine=fingerprint(),
        git=git_state(),
        metrics=tuple(metrics),
        notes=(
            "A sample is a window's mean. Windows are spread evenly over the text and begin without special tokens; "
            "the ratio of perplexities is the exponential of nll_difference.",
        ),
    )  # fmt: skip
