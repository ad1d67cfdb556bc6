"""What a server tells of itself: its version, and those of its settings that decide what it can take.

A server that was up already has a context, slots, batch limits and a prefix cache of its own. They belong into a
record, and a comparison is unfair if they differ.

| asked | by whom it is told |
|---|---|
| `/version`, `/api/version` | Penstock and vLLM; Ollama |
| `/v1/models` | Penstock, vLLM: `max_model_len` |
| `/metrics` | labels of `penstock_engine_config_info` and of `vllm:cache_config_info` |
| `/props` | llama.cpp's server: slots, context, build |
| `/info` | Text Generation Inference |
| `/api/ps` | Ollama: the context of a model that is loaded |

Settings keep the server's own names. Only those listed here are taken: what else stands there may be a path or a name
of somebody's machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from penstock.lab.bench.server_metrics import of_model, samples_of
from penstock.telemetry.metrics import ENGINE_CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from penstock.lab.bench.endpoint import Endpoint

_TIMEOUT_S = 5.0
_LONGEST = 200  # characters of a value
_LABELS = {  # of a metric that is always 1
    ENGINE_CONFIG.full_name: tuple(name for name in ENGINE_CONFIG.labels if name != "model"),
    "vllm:cache_config_info": (
        "block_size", "cache_dtype", "enable_prefix_caching", "gpu_memory_utilization", "num_gpu_blocks",
        "sliding_window",
    ),
}  # fmt: skip
_PROPS = ("total_slots", "default_generation_settings.n_ctx", "build_info")
_INFO = ("max_concurrent_requests", "max_input_tokens", "max_input_length", "max_total_tokens",
         "max_batch_total_tokens", "max_waiting_tokens", "waiting_served_ratio", "model_dtype")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Told:
    """Settings are JSON values by name; `version` is None where it isn't told."""

    version: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def what_it_tells(endpoint: Endpoint) -> Told:
    """Ask each page once; one that isn't there, or holds something else, tells nothing."""
    with endpoint.client(_TIMEOUT_S) as client:
        client.headers.update(endpoint.headers)

        def ask(path: str) -> Any:
            return _json(client, endpoint.base + path)

        pages = {path: ask(path) for path in ("/version", "/api/version", "/v1/models", "/props", "/info")}
        running = None if pages["/api/version"] is None else ask("/api/ps")
        labels = _labels(client, endpoint.base + "/metrics", endpoint.model)
    settings: dict[str, Any] = {}
    settings |= _chosen(_named(pages["/v1/models"], "data", endpoint.model), ("max_model_len",))
    settings |= labels
    settings |= _chosen(pages["/props"], _PROPS) | _chosen(pages["/info"], _INFO)
    settings |= _chosen(_named(running, "models", endpoint.model), ("context_length",))
    versions = (_text(page, "version") for page in (pages["/version"], pages["/api/version"], pages["/info"]))
    version = next((each for each in versions if each), _text(pages["/props"], "build_info"))
    return Told(version, settings)


def _json(client: httpx.Client, url: str) -> Any:
    """None: no such page, or no JSON."""
    try:
        return client.get(url).raise_for_status().json()
    except (httpx.HTTPError, ValueError):
        return None


def _labels(client: httpx.Client, url: str, model: str) -> dict[str, str]:
    """Of this model's engine; none where the labels name several others, as an alias's does."""
    try:
        samples = samples_of(client.get(url).raise_for_status().text)
    except (httpx.HTTPError, ValueError):
        return {}
    found: dict[str, str] = {}
    for metric, names in _LABELS.items():
        told = of_model(samples.get(metric, []), model)
        if len({(each.labels.get("model"), each.labels.get("model_name")) for each in told}) == 1:
            labels = told[0].labels
            found |= {name: labels[name][:_LONGEST] for name in names if labels.get(name)}
    return found


def _chosen(page: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Of a JSON object, plain values; a name with dots leads into objects within, and is kept without them."""
    found = {}
    for name in names:
        value = page
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        short = isinstance(value, str) and len(value) <= _LONGEST
        if short or (isinstance(value, bool | int | float) and math.isfinite(value)):
            found[name.rpartition(".")[2]] = value
    return found


def _named(page: Any, rows: str, model: str) -> Any:
    """The row about `model`: OpenAI calls it `id`, Ollama `name`, with its tag."""
    listed = page.get(rows) if isinstance(page, dict) else None
    for row in listed if isinstance(listed, list) else []:
        if isinstance(row, dict) and model in set(_names(row)):
            return row
    return None


def _names(row: Mapping[str, Any]) -> Iterator[str]:
    for key in ("id", "name"):
        if isinstance(name := row.get(key), str):
            yield name
            yield name.removesuffix(":latest")


def _text(page: Any, name: str) -> str | None:
    said = page.get(name) if isinstance(page, dict) else None
    return said if isinstance(said, str) and said.strip() and said.isprintable() and len(said) <= _LONGEST else None
