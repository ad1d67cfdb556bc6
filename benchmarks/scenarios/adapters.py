"""What it costs to answer each request with an adapter of its own, against the same load on the base model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file

from benchmarks.client import burst
from benchmarks.scenarios.base import make_record, penstock
from benchmarks.workload import OUTPUT_TOKENS
from penstock.core.record import Metric, Record
from penstock.models.architectures.base import hf_name, tensor_shapes
from penstock.models.load import load
from penstock.models.lora import CONFIG, MODULES, WEIGHTS

if TYPE_CHECKING:
    from benchmarks.client import Answer
    from benchmarks.scenarios.base import Setting
    from penstock.models.spec import ModelSpec

NAME = "adapters"
_RANKS = (8, 16)
_STREAMS = (8, 16)


def measure(setting: Setting) -> list[Record]:
    """For each rank, of all modules, bursts of requests without adapters and with one for each, in turn."""
    metrics: list[Metric] = []
    spec, weights = load(setting.model.gguf)
    weights.close()
    most = max(_STREAMS)
    for rank in _RANKS:
        with TemporaryDirectory(prefix="penstock-adapters-") as directory:
            names = [f"adapter-{i}" for i in range(most)]
            for i, name in enumerate(names):
                _write(Path(directory) / name, spec, rank, seed=i)
            options = [word for name in names for word in ("--lora", f"{name}={directory}/{name}")]
            with penstock(setting, "--no-enable-prefix-caching", "--max-loras", str(most), *options) as engine:
                # A record tells what was run, not where this machine keeps its temporary files.
                engine.configuration["options"] = [
                    word.replace(f"{directory}/", "") for word in engine.configuration["options"]
                ]
                for streams in _STREAMS:
                    rates: tuple[list[float], list[float]] = ([], [])
                    for number in range(-1, setting.repeats):  # the first pair warms up
                        prompts = setting.prompts.take(streams, f"streams {rank} {streams} {number}")
                        plain = [engine.post(prompt, OUTPUT_TOKENS) for prompt in prompts]
                        adapted = [
                            replace(post, body={**post.body, "model": name})
                            for post, name in zip(plain, names, strict=False)
                        ]
                        found = [_rate(burst(posts)) for posts in (plain, adapted)]
                        if number >= 0:
                            for into, rate in zip(rates, found, strict=True):
                                into.append(rate)
                    base, own = rates
                    point = f"rank={rank} streams={streams}"
                    metrics += [
                        Metric.from_samples(f"base {point}", "tokens/s", base),
                        Metric.from_samples(f"an adapter each {point}", "tokens/s", own),
                        Metric.from_samples(f"ratio {point}", "1", [b / a for a, b in zip(base, own, strict=True)]),
                    ]
    parameters = {"ranks": list(_RANKS), "streams": list(_STREAMS), "output_tokens": OUTPUT_TOKENS}
    notes = ("Random adapters of all seven modules of each layer. Output tokens over whole bursts, prompts included.",)
    return [make_record(setting, engine, NAME, parameters, metrics, notes)]


def _rate(answers: list[Answer]) -> float:
    """Output tokens a second, from the first request's sending to the last piece of text."""
    began, ended = min(answer.sent for answer in answers), max(answer.arrivals[-1] for answer in answers)
    return OUTPUT_TOKENS * len(answers) / (ended - began)


def _write(directory: Path, spec: ModelSpec, rank: int, seed: int) -> None:
    """A random adapter that changes little, stored in half floats."""
    rng = np.random.default_rng(seed)
    shapes = dict(tensor_shapes(spec))
    tensors = {}
    for layer in range(spec.n_layers):
        for module in MODULES:
            canonical = f"layers.{layer}.{module}.weight"
            outputs, inputs = shapes[canonical]
            name = f"base_model.model.{hf_name(canonical).removesuffix('.weight')}"
            tensors[f"{name}.lora_A.weight"] = rng.normal(0, 0.02, (rank, inputs)).astype(np.float16)
            tensors[f"{name}.lora_B.weight"] = rng.normal(0, 0.02, (outputs, rank)).astype(np.float16)
    directory.mkdir()
    save_file(tensors, directory / WEIGHTS)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": "all-linear"}
    (directory / CONFIG).write_text(json.dumps(config))
