"""One of several clients of a run: a load generator that is told what to send and when to start.

Its methods are called from several threads, as `offer` lasts as long as the run.
"""

from __future__ import annotations

import os
import platform
import socket
import threading
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

import penstock
from penstock.core.errors import NotFoundError
from penstock.core.machine import fingerprint
from penstock.lab.bench.metrics import extent
from penstock.lab.bench.observations import Ending
from penstock.lab.bench.offer import offer
from penstock.lab.bench.spread.figures import tally
from penstock.lab.bench.spread.merge import brief_of
from penstock.lab.bench.validity import judge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.lab.bench.endpoint import Endpoint
    from penstock.lab.bench.observations import Observations
    from penstock.lab.bench.offer import Manner, Progress
    from penstock.lab.bench.planned import Planned
    from penstock.lab.bench.slo import Slo
    from penstock.lab.bench.spread.figures import Tally
    from penstock.lab.bench.spread.merge import Brief

_CHUNKS = 8  # that wait to be taken
_AHEAD = 5000  # requests that are prepared before the start
_REACH_S = 10.0


class Inbox:
    """Requests that come in chunks from elsewhere. An empty chunk is the last."""

    def __init__(self, ahead: int) -> None:
        self._ahead = ahead  # requests to wait for at first
        self._chunks: deque[list[Planned]] = deque()
        self._changed = threading.Condition()
        self._ended = self._closed = self.interrupted = False

    def put(self, chunk: list[Planned]) -> bool:
        """Waits for room. Whether more is wanted."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._chunks) < _CHUNKS or self._closed or self.interrupted)
            self._chunks.append(chunk)
            self._ended = self._ended or not chunk
            self._changed.notify_all()
            return not (self._ended or self._closed or self.interrupted)

    def close(self) -> None:
        """Nothing more is wanted."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def interrupt(self) -> None:
        """Whoever reads is interrupted."""
        with self._changed:
            self.interrupted = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Planned | None]:
        """Waits until `ahead` requests were read; from then on None stands for none being there yet.

        Raises:
            KeyboardInterrupt: `interrupt` was called while it waited.
        """
        read, started = 0, False
        while True:
            if started and not self._chunks:
                yield None
                continue
            with self._changed:
                self._changed.wait_for(lambda: bool(self._chunks) or self.interrupted)
                if not self._chunks:
                    raise KeyboardInterrupt
                chunk = self._chunks.popleft()
                self._changed.notify_all()
            if not chunk:
                return
            read += len(chunk)
            yield from chunk
            if read >= self._ahead and not started:
                started = True
                yield None


class Worker:
    """Number `number` of `workers`, from 0."""

    def __init__(self, number: int, workers: int) -> None:
        self._number, self._workers = number, workers
        self._seen: Observations | None = None
        self._next()

    def _next(self) -> None:
        self._inbox: Inbox | None = None
        self._ready, self._go = threading.Event(), threading.Event()
        self._start_ns = 0
        self._progress: Progress | None = None
        self._cut = False

    def about(self) -> dict[str, Any]:
        """Who it is: JSON values."""
        return {
            "host": socket.gethostname(), "pid": os.getpid(), "penstock": penstock.__version__,
            "python": platform.python_version(), "machine": msgspec.to_builtins(fingerprint()),
        }  # fmt: skip

    def node(self) -> str:
        """The id of the machine in Ray's cluster."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def now(self) -> int:
        """ns of its monotonic clock."""
        return time.monotonic_ns()

    def prepare(self, endpoint: Endpoint, manner: Manner) -> None:
        """Be ready for `put` and `offer`.

        Raises:
            NotFoundError: the server can't be reached from here.
        """
        try:
            socket.create_connection((endpoint.ip, endpoint.port), _REACH_S).close()
        except OSError as error:
            raise NotFoundError(
                f"Worker {self._number + 1} on {socket.gethostname()} can't reach {endpoint.ip} port {endpoint.port}:"
                f" {error}. Workers need a way to the server; give an address that all their machines know.",
                param="url",
            ) from error
        self._next()
        self._inbox = Inbox(max(_AHEAD, manner.slots or 0))

    def put(self, chunk: list[Planned]) -> bool:
        """Requests to send, the empty chunk being the last. Waits for room; whether more is wanted."""
        return self._box.put(chunk)

    def offer(self, endpoint: Endpoint, manner: Manner) -> Brief | None:
        """Offer what is put, once `start` was called, until it is over; None if `cut` was called before that."""
        mine = replace(endpoint, numbering=(self._number, self._workers))
        try:
            seen = offer(mine, self._box, manner, on_progress=self._tell, start=self._started)
        except KeyboardInterrupt:  # of its own making: no signal comes here
            return None
        finally:
            self._box.close()
            self._ready.set()
        ids = seen.id * self._workers + self._number
        self._seen = replace(
            seen, id=ids, texts=self._renumbered(seen.texts), details=self._renumbered(seen.details)
        )  # fmt: skip
        return brief_of(self._seen, int((seen.ending == Ending.WHOLE).sum()), extent(seen), judge(seen))

    def prepared(self) -> int:
        """Returns when `offer` waits for its start, or has failed; ns of its clock."""
        self._ready.wait()
        return self.now()

    def start(self, start_ns: int) -> None:
        """When to start, by this machine's monotonic clock."""
        self._start_ns = start_ns
        self._go.set()

    def cut(self) -> None:
        """End at once."""
        self._cut = True
        self._box.interrupt()
        self._go.set()

    def progress(self) -> Progress | None:
        """How far it is; None before the start."""
        return self._progress

    def tally(self, span: tuple[float, float, bool], until: float, slo: Slo | None) -> Tally:
        """What it saw, in figures: see `figures.tally`."""
        return tally(self._observed, span, until, slo)

    def columns(self) -> Observations:
        """All it saw, with the whole run's ids."""
        return self._observed

    @property
    def _box(self) -> Inbox:
        if self._inbox is None:
            raise RuntimeError("A worker is prepared before it is given requests.")
        return self._inbox

    @property
    def _observed(self) -> Observations:
        if self._seen is None:
            raise RuntimeError("A worker has seen nothing before its run is over.")
        return self._seen

    def _started(self) -> int:
        self._ready.set()
        self._go.wait()
        if self._cut:
            raise KeyboardInterrupt
        return self._start_ns

    def _tell(self, progress: Progress) -> None:
        self._progress = progress
        if self._cut:
            raise KeyboardInterrupt

    def _renumbered(self, said: dict[int, str]) -> dict[int, str]:
        return {number * self._workers + self._number: text for number, text in said.items()}
