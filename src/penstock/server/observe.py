"""What the server counts: each request as its tokens come, and the engine's own figures at each scrape."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import penstock
from penstock.server.errors import CLIENT_GONE
from penstock.server.hangup import ClientGoneError
from penstock.server.latency import LatencyWindow
from penstock.telemetry import metrics as table
from penstock.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from penstock.engine.client import EngineClient
    from penstock.engine.types import RequestOutput
    from penstock.telemetry.metrics import Snapshot

METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH"})


class Observer:
    """One server's metrics and latency window.

    Args:
        engine: whose figures are exported beside the server's own.
        model: the served name, for the build information.
    """

    def __init__(self, engine: EngineClient, model: str) -> None:
        self.metrics = Metrics()
        self.latency = LatencyWindow()
        self.metrics.read_at_scrape(lambda: _engine_figures(engine))
        runner = engine.info.runner
        self.metrics.gauge(table.BUILD_INFO).labels(
            version=penstock.__version__,
            model=model,
            quantization=runner.get("quantization", engine.spec.quantization),
            device=runner.get("device", ""),
            dtype=runner.get("dtype", ""),
            attention=runner.get("attention", ""),
        ).set(1)
        self.prompt_tokens = self.metrics.counter(table.REQUEST_PROMPT_TOKENS)
        self.prompt_length = self.metrics.histogram(table.PROMPT_LENGTH)
        self.output_length = self.metrics.histogram(table.OUTPUT_LENGTH)
        self.first_token = self.metrics.histogram(table.TIME_TO_FIRST_TOKEN)
        self.inter_token = self.metrics.histogram(table.INTER_TOKEN)
        self.end_to_end = self.metrics.histogram(table.END_TO_END)
        self.queue = self.metrics.histogram(table.QUEUE_TIME)
        finished = self.metrics.counter(table.FINISHED)
        self.finished = {reason: finished.labels(reason) for reason in ("stop", "length", "abort", "error")}
        self.http_requests = self.metrics.counter(table.HTTP_REQUESTS)
        self.http_in_flight = self.metrics.gauge(table.HTTP_IN_FLIGHT)


class RequestObserver:
    """Follows one request from its arrival to the end of its last choice.

    Args:
        observer: where it counts.
        arrived: `time.monotonic()` when the request did.
        prompt_tokens: over all its prompts.
        choices: how many sequences it has.
    """

    def __init__(self, observer: Observer, *, arrived: float, prompt_tokens: int, choices: int) -> None:
        self._observer = observer
        self._arrived = arrived
        self._open = choices
        self._tokens = 0
        self._first: float | None = None
        self._latest: dict[int, float] = {}
        observer.prompt_tokens.inc(prompt_tokens)
        observer.prompt_length.observe(prompt_tokens)

    def saw(self, index: int, output: RequestOutput) -> None:
        """A delta of choice `index` came."""
        count = len(output.token_ids)
        if count:
            self._count_tokens(index, count, output.scheduled_time)
        if output.finish_reason is not None:
            self._open -= 1
            self._observer.finished[output.finish_reason].inc()
            if self._open == 0:
                self._complete()

    def ended(self, error: BaseException | None) -> None:
        """Nothing more will come; sequences still open failed with `error`, or were dropped if it is None."""
        dropped = error is None or not isinstance(error, Exception)
        self._observer.finished["abort" if dropped else "error"].inc(self._open)
        self._open = 0

    def _count_tokens(self, index: int, count: int, scheduled: float) -> None:
        observer, now = self._observer, time.monotonic()
        before = self._latest.get(index)
        self._latest[index] = now
        self._tokens += count
        if self._first is None:
            self._first = now - self._arrived
            observer.first_token.observe(self._first)
            if scheduled:
                observer.queue.observe(max(scheduled - self._arrived, 0.0))
        if before is not None:  # several tokens in one delta came evenly, as far as anyone can tell
            for _ in range(count):
                observer.inter_token.observe((now - before) / count)

    def _complete(self) -> None:
        duration = time.monotonic() - self._arrived
        self._observer.end_to_end.observe(duration)
        self._observer.output_length.observe(self._tokens)
        self._observer.latency.add(duration, duration if self._first is None else self._first)


class CountRequests:
    """Middleware: requests in flight, and requests answered by route and status."""

    def __init__(self, app: ASGIApp, observer: Observer) -> None:
        self.app = app
        self.observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = CLIENT_GONE

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.observer.http_in_flight.inc()
        try:
            await self.app(scope, receive, watched)
        except ClientGoneError:  # whoever was to be answered is gone, and so the answer with them
            status = CLIENT_GONE
        finally:
            self.observer.http_in_flight.dec()
            route = scope.get("route")
            method = scope["method"] if scope["method"] in METHODS else "other"  # clients must not invent labels
            self.observer.http_requests.labels(method, "other" if route is None else route.path, str(status)).inc()


def _engine_figures(engine: EngineClient) -> Snapshot:
    stats = engine.stats
    blocks = stats.kv_blocks_total or engine.info.kv_blocks
    states = ("starting", "ready", "restarting", "draining", "stopped")
    return {
        table.REQUESTS_RUNNING: stats.running,
        table.REQUESTS_WAITING: stats.waiting,
        table.KV_BLOCKS_USED: stats.kv_blocks_used,
        table.KV_BLOCKS_TOTAL: blocks,
        table.KV_BYTES: engine.info.kv_bytes,
        table.WEIGHT_BYTES: engine.info.weight_bytes,
        table.KV_USAGE: stats.kv_blocks_used / blocks if blocks else 0.0,
        table.PREFIX_QUERIES: stats.prefix_query_tokens,
        table.PREFIX_HITS: stats.prefix_hit_tokens,
        table.PREEMPTIONS: stats.preemptions,
        table.STEPS: stats.steps,
        table.PROMPT_TOKENS: stats.prompt_tokens,
        table.GENERATION_TOKENS: stats.generation_tokens,
        table.ENGINE_STATE: {(state,): float(engine.state == state) for state in states},
        table.ENGINE_RESTARTS: engine.restarts,
    }
