"""An encoder as its callers see it: token ids in, vectors out, and a process that is kept alive."""

from __future__ import annotations

import asyncio
import itertools
import time
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.core.errors import EngineDeadError, InvalidRequestError, OverloadedError, PenstockError
from penstock.engine.config import EngineInfo, EngineStats
from penstock.engine.encoders import messages
from penstock.engine.spawn import CoreProcess
from penstock.engine.supervised import Supervised
from penstock.models.encoder_tokenizer import EncoderTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.models.encoder_spec import EncoderSpec
    from penstock.models.encoder_tokenizer import EncoderInput

MODULE = "penstock.engine.encoders.process"


class EncoderClient(Supervised[messages.FromEncoder]):
    """Owns one encoder's process.

    Args:
        config: the model and its limits.
        on_batch: called with each batch that was computed.
    """

    whole = "encoder"
    part = "encoder's process"
    spec: EncoderSpec
    info: EngineInfo
    tokenizer: EncoderTokenizer

    def __init__(
        self, config: messages.EncoderConfig, on_batch: Callable[[messages.Batch], None] | None = None
    ) -> None:
        super().__init__(messages.from_encoder_decoder)
        self.config = config
        self.on_batch = on_batch
        self._ids = itertools.count()
        self._answers: dict[int, asyncio.Future[list[bytes]]] = {}
        self._texts = 0
        self._vocabulary = 0

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

    async def encode(self, inputs: Sequence[EncoderInput], *, background: bool = False) -> list[bytes]:
        """The vector of each input, float32 in the machine's byte order: an embedding, or scores by class.

        Args:
            inputs: what is to be read.
            background: give way to all requests that don't.

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
                    background,
                )
            )
            return await answer
        finally:
            del self._answers[request_id]
            if answer.cancelled() and self._is_connected:  # whoever waited for it has gone
                self._send(messages.Cancel(request_id))
            self._texts -= len(inputs)
            if not self._texts:
                self._idle.set()

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

    def _send(self, message: messages.ToEncoder) -> None:
        self._write(messages.frame(message))

    async def _open(self) -> asyncio.StreamReader:
        reader = await self._launch()
        self.tokenizer = await asyncio.to_thread(
            EncoderTokenizer.load, Path(self.config.directory), self.spec.max_length
        )
        self._vocabulary = self.spec.vocab_size or self.tokenizer.vocab_size
        return reader

    def _spawn(self) -> CoreProcess:
        child = CoreProcess(MODULE)
        child.tell(messages.frame(self.config))
        return child

    def _greet(self, message: messages.FromEncoder) -> bool:
        if not isinstance(message, messages.Ready):
            return False
        self.spec = message.spec
        self.info = EngineInfo(
            max_model_len=message.spec.max_length,
            kv_blocks=0,
            block_size=1,
            kv_bytes=0,
            weight_bytes=message.weight_bytes,
            runner=message.runner,
        )
        return True

    def _receive(self, message: messages.FromEncoder) -> bool:
        match message:
            case messages.Encoded(request_id, vectors, error):
                answer = self._answers.get(request_id)
                if answer is None or answer.done():
                    return True
                if error is None:
                    answer.set_result(vectors)
                else:
                    answer.set_exception(PenstockError(f"The request failed: {error}."))
            case messages.Batch():
                if self.on_batch is not None:
                    self.on_batch(message)
            case _:
                return False
        return True

    def _fail_all(self, sentence: str) -> None:
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(EngineDeadError(sentence, code="engine_died"))
