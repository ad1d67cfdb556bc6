"""An encoder as its callers see it: token ids in, vectors out, and a process that is kept alive."""

from __future__ import annotations

import asyncio
import itertools
import logging
import subprocess
import time
from array import array
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from penstock.core import errors
from penstock.core.errors import EngineDeadError, InvalidRequestError, OverloadedError, PenstockError
from penstock.engine import wire
from penstock.engine.config import EngineInfo, EngineStats
from penstock.engine.encoders import messages
from penstock.engine.spawn import CoreProcess
from penstock.models.encoder_tokenizer import EncoderTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.engine.client import State
    from penstock.models.encoder_spec import EncoderSpec
    from penstock.models.encoder_tokenizer import EncoderInput

log = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
CLOSE_SECONDS = 10.0  # how long the process may take to end by itself
MODULE = "penstock.engine.encoders.process"
_DIED = "The encoder's process died while it worked on this request; it is being started again."


class EncoderClient:
    """Owns one encoder's process.

    A process that dies takes its requests with it (they raise EngineDeadError) and is started again, at once and then
    with growing pauses; meanwhile new requests raise EngineDeadError.

    Args:
        config: the model and its limits.
        on_batch: called with each batch that was computed.
    """

    spec: EncoderSpec
    info: EngineInfo
    tokenizer: EncoderTokenizer

    def __init__(
        self, config: messages.EncoderConfig, on_batch: Callable[[messages.Batch], None] | None = None
    ) -> None:
        self.config = config
        self.on_batch = on_batch
        self.state: State = "starting"
        self.restarts = 0
        self._ids = itertools.count()
        self._answers: dict[int, asyncio.Future[list[bytes]]] = {}
        self._texts = 0
        self._vocabulary = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def pid(self) -> int | None:
        """Process id of the running process."""
        return None if self._process is None else self._process.pid

    @property
    def vocab_size(self) -> int:
        """Token ids end below it."""
        return self._vocabulary

    @property
    def stats(self) -> EngineStats:
        """Texts that wait or are computed; the rest is a generator's."""
        return EngineStats(running=self._texts)

    async def start(self) -> None:
        """Start the process and wait until it can serve. Raises ConfigError or ModelFileError."""
        try:
            reader = await self._launch()
            self.tokenizer = await asyncio.to_thread(
                EncoderTokenizer.load, Path(self.config.directory), self.spec.max_length
            )
        except BaseException:
            await self.close()
            raise
        self._vocabulary = self.spec.vocab_size or self.tokenizer.vocab_size
        self.state = "ready"
        self._supervisor = asyncio.create_task(self._supervise(reader))

    async def encode(self, inputs: Sequence[EncoderInput]) -> list[bytes]:
        """The vector of each input, float32 in the machine's byte order: an embedding, or scores by class.

        Raises:
            InvalidRequestError: an input is empty, too long, or holds a token that isn't there.
            OverloadedError: the queue is full.
            EngineDeadError: the process is down, or dies meanwhile.
        """
        self._check_state()
        self._check(inputs)
        if self._texts and self._texts + len(inputs) > self.config.max_waiting:
            raise OverloadedError(
                f"{self._texts} texts are in flight and the queue is full. Try again in a moment.", code="queue_full"
            )
        request_id = next(self._ids)
        answer: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        self._answers[request_id] = answer
        self._texts += len(inputs)
        self._idle.clear()
        try:
            self._send(
                messages.Encode(
                    request_id,
                    [array("i", each.token_ids).tobytes() for each in inputs],
                    [array("i", each.type_ids).tobytes() for each in inputs],
                    time.monotonic(),
                )
            )
            return await answer
        finally:
            del self._answers[request_id]
            if answer.cancelled():  # whoever waited for it has gone
                with suppress(EngineDeadError):
                    self._send(messages.Cancel(request_id))
            self._texts -= len(inputs)
            if not self._texts:
                self._idle.set()

    async def drain(self, timeout: float) -> bool:  # noqa: ASYNC109 - the bound is part of the operation
        """Refuse new requests and wait for those in flight; False if some were left after `timeout` seconds."""
        if self.state == "ready":
            self.state = "draining"
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """End the process; what is still in flight raises EngineDeadError."""
        self.state = "stopped"
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        self._fail_all("The encoder was stopped.")
        await self._end_process()

    def _check(self, inputs: Sequence[EncoderInput]) -> None:
        most, vocabulary = self.spec.max_length, self._vocabulary
        for each in inputs:
            if not each.token_ids or len(each.token_ids) > most:
                raise InvalidRequestError(
                    f"An input of {len(each.token_ids)} tokens can't be read: this model takes 1 to {most}.",
                    code="context_length_exceeded",
                )
            if min(each.token_ids) < 0 or max(each.token_ids) >= vocabulary:
                raise InvalidRequestError(f"Token ids must be from 0 to {vocabulary - 1}.", code="invalid_token_id")

    def _check_state(self) -> None:
        if self.state == "ready":
            return
        sentence = {
            "starting": "The encoder is starting; try again in a few seconds.",
            "restarting": "The encoder's process died and is being started again; try again in a few seconds.",
            "draining": "The server is shutting down and takes no new requests.",
            "stopped": "The encoder was stopped.",
        }[self.state]
        raise EngineDeadError(sentence, code=f"engine_{self.state}")

    def _send(self, message: messages.ToEncoder) -> None:
        if self._writer is None or self._writer.is_closing():
            raise EngineDeadError("The encoder's process is not running.", code="engine_stopped")
        self._writer.write(messages.frame(message))

    async def _launch(self) -> asyncio.StreamReader:
        """Spawn the process and wait for its Ready. Raises what it failed with, or EngineDeadError."""
        child = CoreProcess(MODULE)
        self._process = child.process
        reader, self._writer = await asyncio.open_connection(sock=child.socket)
        self._send(self.config)
        try:
            message = messages.from_encoder_decoder.decode(await wire.read_frame(reader))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise EngineDeadError(
                f"The encoder's process ended while it was loading (exit status {await self._end_process()}); "
                "its message is above."
            ) from error
        if isinstance(message, messages.Failed):
            await self._end_process()
            found = getattr(errors, message.error_type, PenstockError)
            raise found(message.message, param=message.param)
        if not isinstance(message, messages.Ready):
            raise EngineDeadError(f"The encoder's process sent {type(message).__name__} before it was ready.")
        self.spec = message.spec
        self.info = EngineInfo(
            max_model_len=message.spec.max_length,
            kv_blocks=0,
            block_size=1,
            kv_bytes=0,
            weight_bytes=message.weight_bytes,
            runner=message.runner,
        )
        return reader

    async def _supervise(self, reader: asyncio.StreamReader) -> None:
        """Pass answers on for as long as the process lives, and start another when it dies."""
        backoff = 0.0
        while True:
            since = time.monotonic()
            reason = await self._pump(reader)
            if time.monotonic() - since > LONGEST_BACKOFF_SECONDS:
                backoff = 0.0
            self.state = "draining" if self.state == "draining" else "restarting"
            status = await self._end_process()
            log.error("the encoder's process died (exit status %s, %s); starting it again", status, reason)
            self._fail_all(_DIED)
            while True:
                await asyncio.sleep(backoff)
                backoff = min(max(2 * backoff, FIRST_BACKOFF_SECONDS), LONGEST_BACKOFF_SECONDS)
                try:
                    reader = await self._launch()
                except PenstockError as error:
                    log.error("the encoder could not be started again: %s", error.message)  # noqa: TRY400
                else:
                    break
            self.restarts += 1
            self.state = "draining" if self.state == "draining" else "ready"
            log.warning("the encoder is up again")

    async def _pump(self, reader: asyncio.StreamReader) -> str:
        """Deliver answers until the socket ends; returns why it did."""
        try:
            while True:
                match messages.from_encoder_decoder.decode(await wire.read_frame(reader)):
                    case messages.Encoded(request_id, vectors, error):
                        answer = self._answers.get(request_id)
                        if answer is None or answer.done():
                            continue
                        if error is None:
                            answer.set_result(vectors)
                        else:
                            answer.set_exception(PenstockError(f"The request failed: {error}."))
                    case messages.Batch() as batch:
                        if self.on_batch is not None:
                            self.on_batch(batch)
                    case other:
                        return f"unexpected {type(other).__name__}"
        except asyncio.IncompleteReadError:
            return "its socket closed"
        except (ConnectionError, msgspec.DecodeError) as error:
            return str(error)

    def _fail_all(self, sentence: str) -> None:
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(EngineDeadError(sentence, code="engine_died"))

    async def _end_process(self) -> int | None:
        """Close the socket and reap the process, by force if it doesn't end by itself; its exit status."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        process, self._process = self._process, None
        if process is None:
            return None
        try:
            return await asyncio.to_thread(process.wait, CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return await asyncio.to_thread(process.wait)
