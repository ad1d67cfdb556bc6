"""The server's own metrics beside a run: read now and then by a thread of its own, and once before and after."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import httpx

from penstock.core.errors import InvalidRequestError
from penstock.lab.bench.server_metrics import DCGM, ENGINES, Reading, engine_of, quantile, read, samples_of, version_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from prometheus_client.samples import Sample

    from penstock.lab.bench.endpoint import Endpoint
    from penstock.lab.bench.server_metrics import Source

_INTERVAL_S = 1.0
_TIMEOUT_S = 5.0
_SETTLE_S = 1.0  # a server may count an answer just after its end was read
_PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
_GAUGES = ("running", "waiting", "kv_usage", *DCGM)


@dataclass(frozen=True, slots=True)
class _Page:
    url: str
    sources: Mapping[str, Source]
    headers: Mapping[str, str] = field(repr=False)

    def read(self, client: httpx.Client, model: str | None) -> Reading:
        """Raises httpx.HTTPError or ValueError."""
        answer = client.get(self.url, headers=dict(self.headers)).raise_for_status()
        return read(self.sources, samples_of(answer.text), model)


@dataclass(slots=True)
class Window:
    """What was read from before one run until after it."""

    engine: str | None
    readings: list[tuple[float, Reading]] = field(default_factory=list)  # by time.monotonic()
    failures: int = 0

    def add(self, reading: Reading | None) -> None:
        if reading is None:
            self.failures += 1
        else:
            self.readings.append((time.monotonic(), reading))

    def increase(self, quantity: str) -> float | None:
        """Of a counter over the window; a server that started again meanwhile counts from zero. None: not told."""
        values = [reading.values[quantity] for _, reading in self.readings if quantity in reading.values]
        return _increase(values) if len(values) > 1 else None

    def mean(self, quantity: str) -> tuple[float, int] | None:
        """In seconds, with the number of observations; None: not told, or nothing was observed."""
        sums = [reading.sums[quantity] for _, reading in self.readings if quantity in reading.sums]
        if len(sums) < 2:
            return None
        total, count = (_increase([each[i] for each in sums]) for i in (0, 1))
        return (total / count, int(count)) if count else None

    def quantiles(self, quantity: str, shares: Sequence[float]) -> list[float] | None:
        """In seconds, of what was observed within the window; None: no buckets are told, or nothing was observed."""
        pages = [reading.buckets[quantity] for _, reading in self.readings if reading.buckets.get(quantity)]
        if len(pages) < 2:
            return None
        buckets = dict.fromkeys(pages[0], 0.0)
        for before, after in pairwise(pages):
            again = any(after.get(bound, 0.0) < before.get(bound, 0.0) for bound in buckets)  # it started anew
            for bound in buckets:
                buckets[bound] += after.get(bound, 0.0) - (0.0 if again else before.get(bound, 0.0))
        found = [value for share in shares if (value := quantile(share, buckets)) is not None]
        return found if len(found) == len(shares) else None

    def describe(self, start: float) -> dict[str, Any]:
        """As JSON values: increases, means, percentiles of the queue, and series over the seconds since `start`."""
        counters = {name for _, reading in self.readings for name in reading.values} - set(_GAUGES)
        histograms = {name for _, reading in self.readings for name in reading.sums}
        series = {
            name: [reading.values.get(name) for _, reading in self.readings] for name in _GAUGES
            if any(name in reading.values for _, reading in self.readings)
        }  # fmt: skip
        means = {name: self.mean(name) for name in sorted(histograms)}
        queue = self.quantiles("queue", tuple(_PERCENTILES.values()))
        return {
            "engine": self.engine,
            "increases": {name: self.increase(name) for name in sorted(counters)},
            "means": {name: {"mean": mean[0], "n": mean[1]} for name, mean in means.items() if mean is not None},
            "queue": {} if queue is None else dict(zip(_PERCENTILES, queue, strict=True)),
            "times": [round(at - start, 3) for at, _ in self.readings],
            "series": series,
            "failed_scrapes": self.failures,
        }


class Scraper:
    """Reads the pages of one server, and of its GPUs."""

    def __init__(self, pages: list[_Page], engine: str | None, version: str | None, endpoint: Endpoint) -> None:
        self.engine = engine
        self.version = version  # of the engine, if it tells
        self._pages = pages
        self._endpoint = endpoint

    @classmethod
    def find(cls, endpoint: Endpoint, metrics: str | None = None, dcgm: str | None = None) -> Scraper | None:
        """Look for pages: `metrics` is a URL, "off", or None for the endpoint's own /metrics if it has one.

        Raises InvalidRequestError if a page that was named isn't there or tells nothing known.
        """
        pages: list[_Page] = []
        engine = version = None
        if metrics != "off":
            url = metrics or endpoint.base + "/metrics"
            try:
                samples = _fetch(endpoint, url, endpoint.headers)
                engine, version = engine_of(samples), version_of(samples)
                if engine is None and metrics:
                    known = ", ".join(ENGINES)
                    raise InvalidRequestError(
                        f"{url} holds no metrics of an engine known here: {known}.", param="metrics"
                    )
            except (httpx.HTTPError, ValueError) as error:
                if metrics:
                    raise InvalidRequestError(f"{url} is no Prometheus page: {error}", param="metrics") from error
            if engine is not None:
                pages.append(_Page(url, ENGINES[engine], endpoint.headers))
        if dcgm:
            try:
                names = _fetch(endpoint, dcgm, {})
            except (httpx.HTTPError, ValueError) as error:
                raise InvalidRequestError(f"{dcgm} is no Prometheus page: {error}", param="dcgm") from error
            if not any(name.startswith("DCGM_") for name in names):
                raise InvalidRequestError(f"{dcgm} holds no metrics of DCGM.", param="dcgm")
            pages.append(_Page(dcgm, DCGM, {}))
        return cls(pages, engine, version, endpoint) if pages else None

    @contextmanager
    def window(self) -> Iterator[Window]:
        """Read before and meanwhile; `settle` on what is given reads after."""
        window, over = Window(self.engine), threading.Event()
        with self._endpoint.client(_TIMEOUT_S) as client:
            window.add(self._read(client))

            def keep_reading() -> None:
                while not over.wait(_INTERVAL_S):
                    window.add(self._read(client))

            thread = threading.Thread(target=keep_reading, name="penstock-scrape", daemon=True)
            thread.start()
            try:
                yield window
            finally:
                over.set()
                thread.join()

    def settle(self, window: Window, finished: int) -> None:
        """The last reading of a window: once the server has counted `finished` answers, or after a second."""
        deadline = time.monotonic() + _SETTLE_S
        with self._endpoint.client(_TIMEOUT_S) as client:
            while True:
                window.add(self._read(client))
                counted = window.increase("finished")
                if counted is None or counted >= finished or time.monotonic() > deadline:
                    return
                window.readings.pop()
                time.sleep(0.05)

    def _read(self, client: httpx.Client) -> Reading | None:
        """None if a page couldn't be read."""
        together = Reading()
        try:
            for page in self._pages:
                reading = page.read(client, self._endpoint.model)
                together.values.update(reading.values)
                together.sums.update(reading.sums)
                together.buckets.update(reading.buckets)
        except (httpx.HTTPError, ValueError):
            return None
        return together


def _fetch(endpoint: Endpoint, url: str, headers: Mapping[str, str]) -> dict[str, list[Sample]]:
    with endpoint.client(_TIMEOUT_S) as client:
        return samples_of(client.get(url, headers=dict(headers)).raise_for_status().text)


def _increase(values: list[float]) -> float:
    """As Prometheus has it: a value below the one before it began again at zero."""
    return sum(b - a if b >= a else b for a, b in pairwise(values))
