"""The engine as its callers see it: requests in, deltas out, and a core process that is kept alive."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from penstock.core.errors import (
    ConfigError,
    EngineDeadError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PenstockError,
)
from penstock.engine import wire
from penstock.engine.config import EngineStats
from penstock.engine.mailbox import Mailbox
from penstock.engine.spawn import CoreProcess
from penstock.engine.supervised import Supervised
from penstock.engine.types import Request, RequestOutput, SamplingParams
from penstock.models.chat_template import ChatTemplate
from penstock.models.encoder_files import is_encoder
from penstock.models.gguf import GGUFFile
from penstock.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from penstock.engine.config import EngineConfig, EngineInfo
    from penstock.engine.types import AdapterInfo, Pooling
    from penstock.models.spec import ModelSpec

log = logging.getLogger(__name__)


class EngineClient(Supervised[wire.FromCore]):
    """Owns one engine core process. A core that is started again loads the adapters that the one before it had.

    Args:
        config: the model and the engine's limits.
        core: a core that is loading `config` already, to become the first one; it is the client's from here on.
    """

    whole = "engine"
    part = "engine core"
    spec: ModelSpec
    info: EngineInfo
    tokenizer: Tokenizer

    def __init__(self, config: EngineConfig, core: CoreProcess | None = None) -> None:
        super().__init__(wire.from_core_decoder)
        self.config = config
        self.stats = EngineStats()
        self.chat_template: ChatTemplate | None = None
        self.adapters: dict[str, AdapterInfo] = {}
        self._spare = core
        self._mailboxes: dict[str, Mailbox] = {}
        self._loading: dict[str, asyncio.Future[AdapterInfo]] = {}

    @property
    def core_pid(self) -> int | None:
        """Process id of the running core."""
        return None if self._process is None else self._process.pid

    def generate(
        self,
        prompt_token_ids: list[int],
        params: SamplingParams,
        *,
        request_id: str,
        priority: int = 0,
        cache_salt: str = "",
        adapter: str = "",
    ) -> AsyncGenerator[tuple[int, RequestOutput]]:
        """Deltas of `params.n` choices as (choice index, delta), until each has a finish_reason.

        Closing the iterator early aborts the request: its blocks are free within one step.

        Raises:
            InvalidRequestError: a prompt that is empty, too long, or holds a token that isn't there.
            NotFoundError: no adapter of that name is loaded.
            OverloadedError: the waiting queue is full.
            EngineDeadError: the core is down, or dies meanwhile.
        """
        self._check_state()
        self._check_prompt(prompt_token_ids, params)
        if adapter and adapter not in self.adapters:
            raise _no_adapter(adapter)
        self._check_room(params.n)
        seed = secrets.randbits(62) if params.seed is None else params.seed
        requests = [
            Request(
                request_id=f"{request_id}/{index}",
                prompt_token_ids=prompt_token_ids,
                params=msgspec.structs.replace(params, n=1, seed=seed + index),
                priority=priority,
                arrival_time=time.monotonic(),
                cache_salt=cache_salt,
                adapter=adapter,
            )
            for index in range(params.n)
        ]
        return self._stream(requests)

    async def embed(
        self,
        prompt_token_ids: list[int],
        pooling: Pooling,
        *,
        request_id: str,
        priority: int = 0,
        cache_salt: str = "",
        adapter: str = "",
    ) -> RequestOutput:
        """The vector of a prompt, as `RequestOutput.embedding`. Raises as `generate` does."""
        if adapter and adapter not in self.adapters:
            raise _no_adapter(adapter)
        params = SamplingParams(max_tokens=0)
        self._check_state()
        self._check_prompt(prompt_token_ids, params)
        self._check_room(1)
        request = Request(
            request_id=request_id,
            prompt_token_ids=prompt_token_ids,
            params=params,
            priority=priority,
            arrival_time=time.monotonic(),
            cache_salt=cache_salt,
            adapter=adapter,
            pooling=pooling,
        )
        async with aclosing(self._stream([request])) as outputs:
            async for _, output in outputs:
                return output
        raise EngineDeadError("The engine ended without an answer.", code="engine_died")

    async def load_adapter(self, name: str, path: str) -> AdapterInfo:
        """Load the adapter in directory `path`; requests may then name it.

        Whenever the core has to be started again, it is loaded again. Raises InvalidRequestError for a name in use or
        where there are too many, NotFoundError and ModelFileError for files that aren't there or can't be used, and
        EngineDeadError if the core is down.
        """
        self._check_state()
        if name in self.adapters or name in self._loading:
            raise InvalidRequestError(
                f"An adapter {name!r} is loaded already. Unload it first.", param="lora_name", code="adapter_exists"
            )
        loaded: asyncio.Future[AdapterInfo] = asyncio.get_running_loop().create_future()
        self._loading[name] = loaded
        try:
            self._send(wire.LoadAdapter(name, path))
            self.adapters[name] = await loaded
        finally:
            del self._loading[name]
        return self.adapters[name]

    def unload_adapter(self, name: str) -> None:
        """Take no more requests for an adapter; those that it has are finished. Raises NotFoundError."""
        if name not in self.adapters:
            raise _no_adapter(name)
        del self.adapters[name]
        if self._is_connected:
            self._send(wire.UnloadAdapter(name))

    async def close(self) -> None:
        await super().close()
        if self._spare is not None:
            self._spare.discard()
            self._spare = None

    async def _stream(self, requests: list[Request]) -> AsyncGenerator[tuple[int, RequestOutput]]:
        self._check_state()
        arrived = asyncio.Event()
        boxes = {request.request_id: Mailbox(index, arrived) for index, request in enumerate(requests)}
        self._mailboxes.update(boxes)
        self._idle.clear()
        try:
            for request in requests:
                self._send(wire.Add(request))
            open_boxes = dict(boxes)
            while open_boxes:
                await arrived.wait()
                arrived.clear()
                for request_id, box in list(open_boxes.items()):
                    output = box.take()
                    if output is None:
                        continue
                    if output.finish_reason is not None:
                        del open_boxes[request_id]
                        self._forget(request_id)
                    if output.finish_reason == "error":
                        raise _as_exception(output)
                    yield box.index, output
        finally:
            left = [request_id for request_id in boxes if self._mailboxes.get(request_id) is boxes[request_id]]
            for request_id in left:
                self._forget(request_id)
            if left and self._is_connected:
                self._send(wire.Abort(left))

    def _forget(self, request_id: str) -> None:
        self._mailboxes.pop(request_id, None)
        if not self._mailboxes:
            self._idle.set()

    def _check_prompt(self, prompt_token_ids: list[int], params: SamplingParams) -> None:
        if not prompt_token_ids:
            raise InvalidRequestError("The prompt holds no tokens.", param="prompt", code="empty_prompt")
        length, limit = len(prompt_token_ids), self.info.max_model_len
        needed = length + (1 if params.max_tokens != 0 else 0)
        if needed > limit:
            raise InvalidRequestError(
                f"The prompt is {length} tokens long and the model's context is {limit} tokens, which must also hold "
                "what is generated. Shorten the prompt.",
                param="prompt",
                code="context_length_exceeded",
            )
        if min(prompt_token_ids) < 0 or max(prompt_token_ids) >= self.spec.vocab_size:
            raise InvalidRequestError(
                f"Token ids must be from 0 to {self.spec.vocab_size - 1}.", param="prompt", code="invalid_token_id"
            )
        for field, tokens in (("logit_bias", params.logit_bias), ("stop_token_ids", params.stop_token_ids)):
            beyond = [token for token in tokens if not 0 <= token < self.spec.vocab_size]
            if beyond:
                raise InvalidRequestError(
                    f"{field} names token {beyond[0]}; this model's tokens are 0 to {self.spec.vocab_size - 1}.",
                    param=field,
                )

    def _check_room(self, sequences: int) -> None:
        if len(self._mailboxes) + sequences > self.config.max_num_seqs + self.config.max_waiting:
            raise OverloadedError(
                f"{len(self._mailboxes)} requests are in flight and the queue is full. Try again in a moment.",
                code="queue_full",
            )

    def _send(self, message: wire.ToCore) -> None:
        self._write(wire.frame(message))

    async def _open(self) -> asyncio.StreamReader:
        path = Path(self.config.model_path)
        if is_encoder(path):
            raise ConfigError(
                f"{path.name} is an encoder, which reads texts and writes none. `penstock serve` serves it; to "
                "generate, take another model.",
                param="model",
            )
        launched = asyncio.create_task(self._launch())
        try:
            texts = await asyncio.to_thread(_read_text_parts, path)
            reader = await launched
        except BaseException:
            launched.cancel()
            await asyncio.gather(launched, return_exceptions=True)
            raise
        self.tokenizer, self.chat_template = texts
        self.adapters = {adapter.name: adapter for adapter in self.info.adapters}
        return reader

    def _spawn(self) -> CoreProcess:
        core, self._spare = self._spare, None
        if core is None:
            core = CoreProcess()
            core.load(self.config)
        return core

    def _greet(self, message: wire.FromCore) -> bool:
        if not isinstance(message, wire.Ready):
            return False
        self.spec, self.info = message.spec, message.info
        for adapter in self.adapters.values():  # of the core before this one; before any request for them
            self._send(wire.LoadAdapter(adapter.name, adapter.path))
        return True

    def _receive(self, message: wire.FromCore) -> bool:
        match message:
            case wire.Outputs(outputs, stats):
                self.stats = stats
                for output in outputs:
                    box = self._mailboxes.get(output.request_id)
                    if box is not None:
                        box.put(output)
            case wire.AdapterLoaded() | wire.AdapterFailed():
                self._heard_of_adapter(message)
            case _:
                return False
        return True

    def _heard_of_adapter(self, message: wire.AdapterLoaded | wire.AdapterFailed) -> None:
        """An adapter that somebody waits for was loaded or wasn't, or one that the core before this one had."""
        name = message.info.name if isinstance(message, wire.AdapterLoaded) else message.name
        waiting = self._loading.get(name)
        if waiting is not None and not waiting.done():
            if isinstance(message, wire.AdapterLoaded):
                waiting.set_result(message.info)
            else:
                error = wire.error_class(message.error_type)(message.message, param=message.param, code=message.code)
                waiting.set_exception(error)
        elif isinstance(message, wire.AdapterFailed):
            log.error("the adapter %s could not be loaded again: %s", name, message.message)
            self.adapters.pop(name, None)
        elif name not in self.adapters:  # whoever wanted it has gone
            self._send(wire.UnloadAdapter(name))

    def _fail_all(self, sentence: str) -> None:
        for request_id, box in list(self._mailboxes.items()):
            box.put(
                RequestOutput(
                    request_id=request_id, finish_reason="error", error=sentence, error_type=EngineDeadError.__name__
                )
            )
        for waiting in self._loading.values():
            if not waiting.done():
                waiting.set_exception(EngineDeadError(sentence, code="engine_died"))

    def _died(self) -> None:
        self.stats = EngineStats()
        self.config = msgspec.structs.replace(self.config, lora_modules=())  # they come one by one, leniently


def _read_text_parts(path: Path) -> tuple[Tokenizer, ChatTemplate | None]:
    if path.is_dir():
        tokenizer = Tokenizer.load(path)
        return tokenizer, ChatTemplate.load(path, tokenizer)
    with GGUFFile.open(path) as file:
        tokenizer = Tokenizer.of(file)
        return tokenizer, ChatTemplate.of(file, tokenizer)


def _no_adapter(name: str) -> NotFoundError:
    return NotFoundError(f"No adapter {name[:256]!r} is loaded.", param="model", code="model_not_found")


def _as_exception(output: RequestOutput) -> PenstockError:
    code = "engine_died" if output.error_type == EngineDeadError.__name__ else output.error_code
    return wire.error_class(output.error_type or "")(
        output.error or "The request failed.", param=output.error_param, code=code
    )
