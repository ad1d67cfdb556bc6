"""What engines export about themselves, under one set of names.

| quantity | kind |
|---|---|
| running, waiting | gauge: requests in the batch, and before it |
| kv_usage | gauge: share of the KV cache in use, 0 to 1 |
| finished, prompt_tokens, generation_tokens, preemptions, prefix_queries, prefix_hits | counter |
| ttft, itl, tpot, e2e, queue | seconds: a histogram |
| gpu_usage, gpu_memory_usage | gauge: shares of time, the second of DRAM's |
| gpu_power, gpu_memory | gauge: W and bytes, over all GPUs |

`itl` is of each token, `tpot` of each request. Names as of vLLM 0.11 and before (`docs/usage/metrics.md`), Text
Generation Inference 3, llama.cpp's server of 2026 and DCGM exporter 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from prometheus_client.parser import text_string_to_metric_families

from penstock.telemetry import metrics as own

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client.samples import Sample

_MODEL_LABELS = ("model", "model_name")
_UNFINISHED = frozenset({"abort", "error"})


@dataclass(frozen=True, slots=True)
class Source:
    """One exported metric; `names` are its name over the engine's versions, the first found counts."""

    names: tuple[str, ...]
    kind: Literal["gauge", "counter", "histogram"]
    scale: float = 1.0
    over: Literal["sum", "mean"] = "sum"  # of samples whose labels differ


def _gauge(*names: str, scale: float = 1.0, over: Literal["sum", "mean"] = "sum") -> Source:
    return Source(names, "gauge", scale, over)


def _counter(*names: str) -> Source:
    return Source(names, "counter")


def _histogram(*names: str) -> Source:
    return Source(names, "histogram")


ENGINES: dict[str, dict[str, Source]] = {
    "penstock": {
        "running": _gauge(own.REQUESTS_RUNNING.full_name),
        "waiting": _gauge(own.REQUESTS_WAITING.full_name),
        "kv_usage": _gauge(own.KV_USAGE.full_name, over="mean"),
        "finished": _counter(own.FINISHED.full_name + "_total"),
        "prompt_tokens": _counter(own.REQUEST_PROMPT_TOKENS.full_name + "_total"),
        "generation_tokens": _counter(own.GENERATION_TOKENS.full_name + "_total"),
        "preemptions": _counter(own.PREEMPTIONS.full_name + "_total"),
        "prefix_queries": _counter(own.PREFIX_QUERIES.full_name + "_total"),
        "prefix_hits": _counter(own.PREFIX_HITS.full_name + "_total"),
        "ttft": _histogram(own.TIME_TO_FIRST_TOKEN.full_name),
        "itl": _histogram(own.INTER_TOKEN.full_name),
        "e2e": _histogram(own.END_TO_END.full_name),
        "queue": _histogram(own.QUEUE_TIME.full_name),
    },
    "vllm": {
        "running": _gauge("vllm:num_requests_running"),
        "waiting": _gauge("vllm:num_requests_waiting"),
        "kv_usage": _gauge("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", over="mean"),
        "finished": _counter("vllm:request_success_total"),
        "prompt_tokens": _counter("vllm:prompt_tokens_total"),
        "generation_tokens": _counter("vllm:generation_tokens_total"),
        "preemptions": _counter("vllm:num_preemptions_total"),
        "prefix_queries": _counter("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
        "prefix_hits": _counter("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
        "ttft": _histogram("vllm:time_to_first_token_seconds"),
        "itl": _histogram("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
        "e2e": _histogram("vllm:e2e_request_latency_seconds"),
        "queue": _histogram("vllm:request_queue_time_seconds"),
    },
    "tgi": {
        "running": _gauge("tgi_batch_current_size"),
        "waiting": _gauge("tgi_queue_size"),
        "finished": _counter("tgi_request_success_total", "tgi_request_success"),
        "prompt_tokens": _counter("tgi_request_input_length_sum"),
        "generation_tokens": _counter("tgi_request_generated_tokens_sum"),
        "tpot": _histogram("tgi_request_mean_time_per_token_duration"),
        "e2e": _histogram("tgi_request_duration"),
        "queue": _histogram("tgi_request_queue_duration"),
    },
    "llama.cpp": {
        "running": _gauge("llamacpp:requests_processing"),
        "waiting": _gauge("llamacpp:requests_deferred"),
        "prompt_tokens": _counter("llamacpp:prompt_tokens_total"),
        "generation_tokens": _counter("llamacpp:tokens_predicted_total"),
    },
}  # fmt: skip
_TOLD_BY = {"penstock": own.PREFIX, "vllm": "vllm:", "tgi": "tgi_", "llama.cpp": "llamacpp:"}
DCGM: dict[str, Source] = {
    "gpu_usage": _gauge("DCGM_FI_PROF_GR_ENGINE_ACTIVE", over="mean"),
    "gpu_memory_usage": _gauge("DCGM_FI_PROF_DRAM_ACTIVE", over="mean"),
    "gpu_power": _gauge("DCGM_FI_DEV_POWER_USAGE"),
    "gpu_memory": _gauge("DCGM_FI_DEV_FB_USED", scale=float(1 << 20)),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """One page, read: gauges and counters by quantity, histograms as sum and count and by their buckets."""

    values: dict[str, float] = field(default_factory=dict)
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)
    buckets: dict[str, dict[float, float]] = field(default_factory=dict)  # upper bound -> observations up to it


def samples_of(page: str) -> dict[str, list[Sample]]:
    """A Prometheus text page by the samples' names. Raises ValueError if it is none."""
    by_name: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            by_name.setdefault(sample.name, []).append(sample)
    return by_name


def engine_of(samples: Iterable[str]) -> str | None:
    """Which engine exports metrics of these names."""
    names = list(samples)
    return next((engine for engine, start in _TOLD_BY.items() if any(name.startswith(start) for name in names)), None)


def version_of(samples: Mapping[str, list[Sample]]) -> str | None:
    """Penstock tells its version there."""
    infos = samples.get(own.BUILD_INFO.full_name, [])
    return next((each.labels["version"] for each in infos if each.labels.get("version")), None)


def read(sources: Mapping[str, Source], samples: Mapping[str, list[Sample]], model: str | None) -> Reading:
    """What the page says of `model`, or of all models where its labels name it nowhere."""
    reading = Reading()
    for quantity, source in sources.items():
        for name in source.names:
            if source.kind == "histogram":
                sums, counts = (_pick(samples.get(f"{name}_{part}", []), model) for part in ("sum", "count"))
                if counts:
                    reading.sums[quantity] = (sum(sums), sum(counts))
                    reading.buckets[quantity] = _buckets(samples.get(f"{name}_bucket", []), model)
                    break
            elif found := _pick(samples.get(name, []), model):
                total = sum(found) / (len(found) if source.over == "mean" else 1)
                reading.values[quantity] = total * source.scale
                break
    return reading


def quantile(share: float, buckets: Mapping[float, float]) -> float | None:
    """As Prometheus' `histogram_quantile` has it: linear within a bucket, the highest bound above that.

    Args:
        buckets: upper bound -> observations up to it. Without observations, or a bound below infinity: None.
    """
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if total <= 0 or bounds[0] == math.inf:
        return None
    below, low = 0.0, 0.0
    for bound in bounds:
        upto = buckets[bound]
        if upto >= share * total and upto > below:
            within = (share * total - below) / (upto - below)
            return low if bound == math.inf else min(bound, low + (bound - low) * within)
        below, low = upto, bound
    return low


def of_model(samples: list[Sample], model: str | None) -> list[Sample]:
    """Those whose labels name the model; all of them where none does."""
    named = [each for each in samples if any(each.labels.get(label) == model for label in _MODEL_LABELS)]
    return named or samples


def _buckets(samples: list[Sample], model: str | None) -> dict[float, float]:
    found: dict[float, float] = {}
    for each in of_model(samples, model):
        if (bound := each.labels.get("le")) is not None:
            found[float(bound)] = found.get(float(bound), 0.0) + each.value
    return found


def _pick(samples: list[Sample], model: str | None) -> list[float]:
    """Values of this model's samples; sequences that were given up are none that finished."""
    return [
        each.value for each in of_model(samples, model)
        if each.labels.get("reason", each.labels.get("finished_reason")) not in _UNFINISHED
    ]  # fmt: skip
