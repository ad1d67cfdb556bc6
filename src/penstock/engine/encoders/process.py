"""An encoder's process: a socket in, batches through the model, a socket out.

Started as `python -m penstock.engine.encoders.process FD` (`engine/child.py`). A process of its own, since onnxruntime
is much native code that reads files of others: what brings it down takes no connection and no other model with it, and
neither its start nor numpy's costs the server anything. The main thread sleeps while there is no work.
"""

from __future__ import annotations

import logging
import queue
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from penstock.core.errors import ConfigError, PenstockError
from penstock.engine import child, wire
from penstock.engine.encoders import messages
from penstock.engine.encoders.batches import CALL_TOKENS, ROUND_TOKENS, Job, WaitingJobs, cut
from penstock.models.encoder_spec import load_encoder_spec

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from penstock.engine.encoders.batches import Item
    from penstock.engine.encoders.results import Session
    from penstock.models.encoder_spec import EncoderSpec

log = logging.getLogger(__name__)
NOT_FINITE = "the model's result is not a finite number"
FAILED = "the model failed on this request; the server's log has the cause"


@dataclass(slots=True)
class _Request:
    """What is kept of a request until all its vectors are there."""

    job: Job
    message: messages.Encode
    token_ids: list[NDArray[np.int32]]
    type_ids: list[NDArray[np.int32]]
    vectors: list[bytes]


class EncoderLoop:
    """Takes messages, computes round after round, and sends what is ready.

    Args:
        session: what computes.
        sock: to the client.
        max_queue_delay: seconds that a text may wait for others.
        clock: the one that requests' arrivals are told by.
    """

    def __init__(
        self,
        session: Session,
        sock: socket.socket,
        max_queue_delay: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._socket = sock
        self._clock = clock
        self._waiting = WaitingJobs(max_queue_delay)
        self._requests: dict[int, _Request] = {}
        self._unsent = bytearray()

    def run(self, inbox: queue.SimpleQueue[messages.ToEncoder | None]) -> None:
        """Until None comes: the client has gone."""
        while self.once(inbox):
            pass

    @property
    def has_work(self) -> bool:
        return bool(self._waiting)

    def once(self, inbox: queue.SimpleQueue[messages.ToEncoder | None]) -> bool:
        """Take a message, or compute a round if none comes in time; waits for either. False: the client has gone."""
        left = self._waiting.seconds_left(self._clock())
        try:
            message = inbox.get(block=left != 0, timeout=left)
        except queue.Empty:
            self._round()
            return True
        match message:
            case messages.Encode():
                self._add(message)
            case messages.Cancel(request_id):
                self._waiting.cancel(request_id)
                self._requests.pop(request_id, None)
            case _:
                return False
        return True

    def _add(self, message: messages.Encode) -> None:
        import numpy as np

        token_ids = [np.frombuffer(ids, np.int32) for ids in message.token_ids]
        type_ids = [np.frombuffer(ids, np.int32) for ids in message.type_ids]
        job = Job(message.request_id, [len(ids) for ids in token_ids], message.arrived, message.background)
        self._requests[message.request_id] = _Request(job, message, token_ids, type_ids, [b""] * len(token_ids))
        self._waiting.add(job)

    def _round(self) -> None:
        call = CALL_TOKENS if self._session.pads else ROUND_TOKENS
        for batch in cut(self._waiting.next_round(), call=call):
            wanted = [item for item in batch if item.job.request_id in self._requests]
            if wanted:
                self._compute(wanted)

    def _compute(self, batch: list[Item]) -> None:
        requests = [self._requests[item.job.request_id] for item in batch]
        began = self._clock()
        try:
            vectors = self._session.run(
                [request.token_ids[item.index] for request, item in zip(requests, batch, strict=True)],
                [request.type_ids[item.index] for request, item in zip(requests, batch, strict=True)],
            )
            found = list(zip(batch, vectors, strict=True))  # a graph may have been drawn for one text
        except Exception:
            log.exception("a batch of %d texts failed", len(batch))
            if len(batch) > 1:  # only the culprit is to fail
                for item in batch:
                    if item.job.request_id in self._requests:
                        self._compute([item])
            else:
                self._fail(batch[0].job, FAILED)
                self._send()
            return
        tokens = sum(item.length for item in batch)
        done = messages.Batch(
            texts=len(batch),
            tokens=tokens,
            padded_tokens=len(batch) * max(item.length for item in batch) if self._session.pads else tokens,
            seconds=self._clock() - began,
            queued=[began - request.message.arrived for request in requests],
        )
        self._say(done)
        import numpy as np

        for item, vector in found:
            if np.isfinite(vector).all():
                self._take(item, vector.tobytes())
            else:
                self._fail(item.job, NOT_FINITE)
        self._send()

    def _take(self, item: Item, vector: bytes) -> None:
        request = self._requests.get(item.job.request_id)
        if request is None:
            return  # another of its texts failed
        request.vectors[item.index] = vector
        item.job.left -= 1
        if item.job.left == 0:
            del self._requests[item.job.request_id]
            self._say(messages.Encoded(item.job.request_id, request.vectors))

    def _fail(self, job: Job, sentence: str) -> None:
        if self._requests.pop(job.request_id, None) is not None:
            self._waiting.cancel(job.request_id)
            self._say(messages.Encoded(job.request_id, [], sentence))

    def _say(self, message: messages.FromEncoder) -> None:
        self._unsent += messages.frame(message)

    def _send(self) -> None:
        """All that was said at once: the other end wakes up once."""
        self._socket.sendall(self._unsent)
        self._unsent.clear()


def serve_encoder(sock: socket.socket) -> None:
    """Load what the first message says, then run until the other end closes."""
    config = messages.receive(sock)
    if config is None:
        return
    if not isinstance(config, messages.EncoderConfig):
        raise TypeError(f"the first message must be EncoderConfig, not {type(config).__name__}")
    inbox: queue.SimpleQueue[messages.ToEncoder | None] = queue.SimpleQueue()
    child.read_in_thread(lambda: messages.receive(sock), inbox.put)
    try:
        spec, session, runner, weight_bytes = _load(config)
    except PenstockError as error:
        sock.sendall(messages.frame(wire.Failed(type(error).__name__, error.message, error.param)))
        return
    sock.sendall(messages.frame(messages.Ready(spec, weight_bytes, runner)))
    child.keep_what_is_there()
    EncoderLoop(session, sock, config.max_queue_delay).run(inbox)


def _load(config: messages.EncoderConfig) -> tuple[EncoderSpec, Session, dict[str, str], int]:
    directory = Path(config.directory)
    spec = _bounded(load_encoder_spec(directory), config.max_length)
    try:
        from penstock.engine.encoders.native_session import NativeSession, instructions

        native = instructions(spec)
        if native is None:
            import onnxruntime
    except ImportError as error:
        raise ConfigError(f"Serving {spec.name} needs {error.name}: pip install 'penstock[encoders]'.") from error
    from penstock.engine.encoders.memory import check_memory
    from penstock.engine.runners.base import RunnerConfig
    from penstock.engine.runners.threads import place_threads

    weight_bytes = check_memory(spec, directory, config.memory, packed_beside=native is None)
    placed = place_threads(RunnerConfig(model_path=config.directory, threads=config.threads, pin_threads="off"))
    session: Session
    if native is not None:
        session = NativeSession(spec, directory, placed)
    else:
        from penstock.engine.encoders.session import EncoderSession

        session = EncoderSession(spec, directory, placed.threads)
    runner = {
        "runner": f"native, {native}" if native else f"onnxruntime {onnxruntime.__version__}",
        "device": "cpu",
        "dtype": "float32" if spec.drawn else "as in the file",
        "attention": "over the whole text",
        "verified": "yes",
        "threads": str(placed.threads),
    }
    return spec, session, runner, weight_bytes


def _bounded(spec: EncoderSpec, most: int | None) -> EncoderSpec:
    if most is None:
        return spec
    if not 3 <= most <= spec.max_length:
        raise ConfigError(
            f"max_model_len {most} is outside 3 to {spec.max_length}, what {spec.name} reads.", param="max_model_len"
        )
    return msgspec.structs.replace(spec, max_length=most)


if __name__ == "__main__":
    child.run(serve_encoder, "encoder")
