"""What the server counts of each request, as its tokens come."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from penstock.server.errors import CLIENT_GONE
from penstock.server.hangup import ClientGoneError
from penstock.server.latency import LatencyWindow
from penstock.telemetry import metrics as table
from penstock.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from penstock.engine.encoders.messages import Batch
    from penstock.engine.types import RequestOutput

METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH"})


class Observer:
    """One server's metrics and latency window."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.latency = LatencyWindow()
        self.http_requests = self.metrics.counter(table.HTTP_REQUESTS)
        self.http_in_flight = self.metrics.gauge(table.HTTP_IN_FLIGHT)
        self.grpc_requests = self.metrics.counter(table.GRPC_REQUESTS)

    def of_model(self, name: str) -> ModelObserver:
        """Where the requests to one model are counted."""
        return ModelObserver(self.metrics, self.latency, name)

    def batches_of(self, name: str) -> Callable[[Batch], None]:
        """What counts an encoder's batches."""
        texts, tokens, padding, seconds, queue = (
            self.metrics.histogram(table.ENCODER_BATCH).labels(name),
            self.metrics.counter(table.ENCODER_TOKENS).labels(name),
            self.metrics.counter(table.ENCODER_PADDING).labels(name),
            self.metrics.histogram(table.ENCODER_BATCH_SECONDS).labels(name),
            self.metrics.histogram(table.ENCODER_QUEUE).labels(name),
        )

        def count(batch: Batch) -> None:
            texts.observe(batch.texts)
            tokens.inc(batch.tokens)
            padding.inc(batch.padded_tokens - batch.tokens)
            seconds.observe(batch.seconds)
            for waited in batch.queued:
                queue.observe(waited)

        return count


class ModelObserver:
    """One model's counts of its requests; those of a model that was loaded before under the same name go on."""

    def __init__(self, metrics: Metrics, latency: LatencyWindow, name: str) -> None:
        self.latency = latency
        self.prompt_tokens = metrics.counter(table.REQUEST_PROMPT_TOKENS).labels(name)
        self.prompt_length = metrics.histogram(table.PROMPT_LENGTH).labels(name)
        self.output_length = metrics.histogram(table.OUTPUT_LENGTH).labels(name)
        self.first_token = metrics.histogram(table.TIME_TO_FIRST_TOKEN).labels(name)
        self.inter_token = metrics.histogram(table.INTER_TOKEN).labels(name)
        self.end_to_end = metrics.histogram(table.END_TO_END).labels(name)
        self.queue = metrics.histogram(table.QUEUE_TIME).labels(name)
        finished = metrics.counter(table.FINISHED)
        self.finished = {reason: finished.labels(name, reason) for reason in ("stop", "length", "abort", "error")}
        structured = metrics.counter(table.STRUCTURED)
        outcomes = {"stop": "complete", "length": "cut", "abort": "abort", "error": "error"}
        self.structured = {reason: structured.labels(name, outcome) for reason, outcome in outcomes.items()}


class RequestObserver:
    """Follows one request from its arrival to the end of its last choice.

    Args:
        observer: where it counts.
        arrived: `time.monotonic()` when the request did.
        prompt_tokens: over all its prompts.
        choices: how many sequences it has.
        structured: whether these must match a grammar.
    """

    def __init__(
        self, observer: ModelObserver, *, arrived: float, prompt_tokens: int, choices: int, structured: bool = False
    ) -> None:
        self._observer = observer
        self._structured = structured
        self._arrived = arrived
        self._open = choices
        self._tokens = 0
        self._first: float | None = None
        self._latest: dict[int, float] = {}
        observer.prompt_tokens.inc(prompt_tokens)
        observer.prompt_length.observe(prompt_tokens)

    def saw(self, index: int, output: RequestOutput) -> bool:
        """A delta of choice `index` came; whether it was the last of the last choice."""
        count = len(output.token_ids)
        if count:
            self._count_tokens(index, count, output.scheduled_time)
        if output.finish_reason is not None:
            self._open -= 1
            self._count_end(output.finish_reason, 1)
            if self._open == 0:
                self._complete()
                return True
        return False

    def ended(self, error: BaseException | None) -> None:
        """Nothing more will come; sequences still open failed with `error`, or were dropped if it is None."""
        dropped = error is None or not isinstance(error, Exception)
        self._count_end("abort" if dropped else "error", self._open)
        self._open = 0

    def _count_end(self, reason: str, sequences: int) -> None:
        self._observer.finished[reason].inc(sequences)
        if self._structured:
            self._observer.structured[reason].inc(sequences)

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
