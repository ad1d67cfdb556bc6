"""The metric table: every metric the project exports, and the registry that is built from it.

The table is data, so that dashboards, alerts and documentation can be made from the same rows. Names follow
https://prometheus.io/docs/practices/naming/ (base units, `_total` on counters, added on export).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric as Family

    Snapshot: TypeAlias = Mapping["Metric", Mapping[tuple[str, ...], float]]  # by label values

PREFIX = "penstock_"
M = TypeVar("M", Counter, Gauge, Histogram)

# Seconds. Fine around what people notice, and up to a very long answer.
_LATENCY = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_TOKENS = (1.0, 8.0, 32.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 65536.0, 131072.0)


_TEXTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table.

    `origin` "event" is counted as things happen; "snapshot" is read from somewhere else at each scrape.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ("model",)
    buckets: tuple[float, ...] = ()
    origin: Literal["event", "snapshot"] = "event"

    @property
    def full_name(self) -> str:
        """The name as exported, without a counter's `_total`."""
        return PREFIX + self.name


# What the engine core reports; totals start again at zero when the core does.
REQUESTS_RUNNING = Metric("requests_running", "gauge", "Sequences in the running batch.", origin="snapshot")
REQUESTS_WAITING = Metric("requests_waiting", "gauge", "Sequences waiting for a place.", origin="snapshot")
KV_BLOCKS_USED = Metric("kv_blocks_used", "gauge", "KV blocks held by live requests.", origin="snapshot")
KV_BLOCKS_TOTAL = Metric("kv_blocks", "gauge", "KV blocks there are.", origin="snapshot")
KV_BYTES = Metric("kv_bytes", "gauge", "Memory reserved for the KV cache.", origin="snapshot")
WEIGHT_BYTES = Metric("weight_bytes", "gauge", "Memory the loaded weights take.", origin="snapshot")
KV_USAGE = Metric("kv_cache_usage_ratio", "gauge", "Share of KV blocks in use, 0 to 1.", origin="snapshot")
PREFIX_QUERIES = Metric(
    "prefix_cache_query_tokens", "counter", "Prompt tokens looked up in the prefix cache.", origin="snapshot"
)
PREFIX_HITS = Metric(
    "prefix_cache_hit_tokens", "counter", "Prompt tokens taken from the prefix cache.", origin="snapshot"
)
PREEMPTIONS = Metric("preemptions", "counter", "Running sequences pushed out of the batch.", origin="snapshot")
STEPS = Metric("engine_steps", "counter", "Steps the engine core has run.", origin="snapshot")
PROMPT_TOKENS = Metric(
    "prompt_tokens_computed", "counter", "Prompt tokens computed, cached ones not counted.", origin="snapshot"
)
GENERATION_TOKENS = Metric("generation_tokens", "counter", "Tokens generated.", origin="snapshot")
DRAFT_TOKENS = Metric("draft_tokens", "counter", "Drafted tokens that were checked.", origin="snapshot")
ACCEPTED_DRAFT_TOKENS = Metric(
    "accepted_draft_tokens", "counter", "Drafted tokens that the model chose too.", origin="snapshot"
)
ENGINE_STATE = Metric(
    "engine_state", "gauge", "1 for the state the engine is in.", labels=("model", "state"), origin="snapshot"
)
ENGINE_RESTARTS = Metric("engine_restarts", "counter", "Times the engine core was started again.", origin="snapshot")

# What the server sees.
REQUEST_PROMPT_TOKENS = Metric("prompt_tokens", "counter", "Prompt tokens of accepted requests, cached ones included.")
PROMPT_LENGTH = Metric("request_prompt_tokens", "histogram", "Prompt tokens per request.", buckets=_TOKENS)
OUTPUT_LENGTH = Metric("request_generation_tokens", "histogram", "Generated tokens per request.", buckets=_TOKENS)
TIME_TO_FIRST_TOKEN = Metric(
    "time_to_first_token_seconds", "histogram", "From the request's arrival to its first token.", buckets=_LATENCY
)
INTER_TOKEN = Metric("inter_token_seconds", "histogram", "Between successive tokens of one sequence.", buckets=_LATENCY)
END_TO_END = Metric("request_seconds", "histogram", "From a request's arrival to its last token.", buckets=_LATENCY)
QUEUE_TIME = Metric(
    "request_queue_seconds", "histogram", "From a request's arrival to its first step.", buckets=_LATENCY
)
FINISHED = Metric(
    "sequences_finished",
    "counter",
    "Sequences ended, by reason: stop, length, abort, error.",
    labels=("model", "reason"),
)
STRUCTURED = Metric(
    "structured_outputs",
    "counter",
    "Sequences whose output had to match a grammar, by outcome: complete, cut (by length), abort, error.",
    labels=("model", "outcome"),
)
ENCODER_BATCH = Metric(
    "encoder_batch_texts", "histogram", "Texts that an encoder computed in one call.", buckets=_TEXTS
)
ENCODER_BATCH_SECONDS = Metric(
    "encoder_batch_seconds", "histogram", "How long an encoder computed one call.", buckets=_LATENCY
)
ENCODER_QUEUE = Metric(
    "encoder_queue_seconds", "histogram", "From a text's arrival to the call that computes it.", buckets=_LATENCY
)
ENCODER_TOKENS = Metric("encoder_tokens", "counter", "Tokens that an encoder computed, padding not counted.")
ENCODER_PADDING = Metric("encoder_padding_tokens", "counter", "Padding that an encoder computed.")
ENSEMBLE_STEP = Metric(
    "ensemble_step_seconds",
    "histogram",
    "How long a step of an ensemble took.",
    labels=("ensemble", "step", "model"),
    buckets=_LATENCY,
)
HTTP_REQUESTS = Metric(
    "http_requests",
    "counter",
    "HTTP requests answered (499: the client left first).",
    labels=("method", "route", "status"),
)
HTTP_IN_FLIGHT = Metric("http_requests_in_flight", "gauge", "HTTP requests being answered.", labels=())
GRPC_REQUESTS = Metric("grpc_requests", "counter", "gRPC calls ended, by status.", labels=("method", "status"))
BUILD_INFO = Metric(
    "build_info",
    "gauge",
    "Always 1; the labels say what is running.",
    labels=("version", "model", "quantization", "device", "dtype", "attention"),
    origin="snapshot",
)
ENGINE_CONFIG = Metric(
    "engine_config_info",
    "gauge",
    "Always 1; the labels are the settings that decide what an engine can take.",
    labels=("model", "max_num_seqs", "max_num_batched_tokens", "block_size", "enable_prefix_caching",
            "kv_cache_dtype", "speculation", "threads"),
    origin="snapshot",
)  # fmt: skip

TABLE: tuple[Metric, ...] = tuple(row for row in list(globals().values()) if isinstance(row, Metric))


class Metrics:
    """The table's metrics in a registry of their own, so that several servers can live in one process.

        metrics = Metrics()
        metrics.counter(FINISHED).labels("smollm2", "stop").inc()
        body, content_type = metrics.expose()

    Args:
        table: the rows to build.
    """

    def __init__(self, table: Iterable[Metric] = TABLE) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._built: dict[Metric, Counter | Gauge | Histogram] = {
            row: _build(row, self.registry) for row in table if row.origin == "event"
        }
        ProcessCollector(registry=self.registry)

    def counter(self, row: Metric) -> Counter:
        """The counter of a row. Raises KeyError if the row is not in the table."""
        return self._get(row, Counter)

    def gauge(self, row: Metric) -> Gauge:
        """The gauge of a row."""
        return self._get(row, Gauge)

    def histogram(self, row: Metric) -> Histogram:
        """The histogram of a row."""
        return self._get(row, Histogram)

    def read_at_scrape(self, read: Callable[[], Snapshot]) -> None:
        """Export the values that `read` returns at each scrape, of rows whose origin is "snapshot"."""
        self.registry.register(_SnapshotCollector(read))

    def expose(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition and its content type: Prometheus text, or OpenMetrics if `accept` asks for it."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _get(self, row: Metric, kind: type[M]) -> M:
        built = self._built[row]
        if not isinstance(built, kind):
            raise KeyError(f"{row.name} is a {row.kind}")
        return built


def _build(row: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    match row.kind:
        case "counter":
            return Counter(row.full_name, row.help, row.labels, registry=registry)
        case "gauge":
            return Gauge(row.full_name, row.help, row.labels, registry=registry)
        case "histogram":
            return Histogram(row.full_name, row.help, row.labels, registry=registry, buckets=row.buckets)


class _SnapshotCollector(Collector):
    def __init__(self, read: Callable[[], Snapshot]) -> None:
        self._read = read

    def collect(self) -> Iterator[Family]:
        for row, samples in self._read().items():
            kind = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
            family = kind(row.full_name, row.help, labels=row.labels)
            for labels, sample in samples.items():
                family.add_metric(labels, sample)
            yield family
