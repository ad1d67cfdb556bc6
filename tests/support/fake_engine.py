"""The real engine client over a core that is faked in this process: it says the prompt back.

Everything above the socket is the real thing: the client's checks, its mailboxes and merging, aborts, stop rules,
tokenizer and chat template. The core's answer to a prompt is the prompt's own text, from the start, then end of
text; with `ignore_eos` it begins again. A test may hold the tokens back and let them go one by one.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import time
from array import array
from itertools import chain, count
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.engine import wire
from penstock.engine.client import EngineClient
from penstock.engine.config import EngineConfig, EngineInfo, EngineStats
from penstock.engine.stopping import OutputStream
from penstock.engine.types import PositionLogprobs, RequestOutput, TokenLogprob
from penstock.models.chat_template import ChatTemplate
from penstock.models.spec import ModelSpec
from penstock.models.tokenizer import Tokenizer
from support.tiny_chat import TEMPLATE, write_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from penstock.core.errors import PenstockError
    from penstock.engine.types import Request

CONTEXT = 512
SPEC = ModelSpec(
    architecture="llama",
    name="Echo-1B",
    vocab_size=320,
    hidden_size=64,
    ffn_size=96,
    n_layers=3,
    n_heads=4,
    n_kv_heads=2,
    head_dim=16,
    context_length=CONTEXT,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    bos_token_id=1,
    eos_token_ids=(2,),
)
INFO = EngineInfo(
    max_model_len=CONTEXT,
    kv_blocks=256,
    block_size=16,
    kv_bytes=256 * 16 * 768,
    weight_bytes=1 << 20,
    runner={"device": "cpu", "dtype": "float32", "attention": "none", "verified": "yes"},
)


def write_model(directory: Path, template: str = TEMPLATE, control: Sequence[str] = ()) -> Path:
    """The tokenizer and the template alone; no weights."""
    (directory / "config.json").write_text(json.dumps({"vocab_size": 320, "bos_token_id": 1, "eos_token_id": 2}))
    write_tokenizer(directory, template, control)
    return directory


class FakeEngine(EngineClient):
    """An engine whose core is a task here.

    Args:
        directory: what `write_model` wrote.
        held: no sequence says anything until `release` lets it.
        says: what every sequence says instead of its prompt.
        context: tokens of prompt and answer.
        options: of EngineConfig.
    """

    def __init__(
        self, directory: Path, *, held: bool = False, says: str | None = None, context: int = CONTEXT, **options: Any
    ) -> None:
        super().__init__(EngineConfig(model_path=str(directory), **options))
        self.tokenizer = Tokenizer.load(directory)
        self.chat_template = ChatTemplate.load(directory, self.tokenizer)
        self.spec = dataclasses.replace(SPEC, context_length=context)
        self.info = msgspec.structs.replace(INFO, max_model_len=context)
        self.says = says
        self.state = "ready"
        self.added: list[Request] = []
        self.aborted: list[str] = []
        self.failure: PenstockError | None = None  # what every sequence fails with, after its first token
        self.cached_tokens = 0
        self._allowance = 0 if held else None
        self._more = asyncio.Event()
        self._sequences: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Nothing to wait for."""

    async def close(self) -> None:
        """End what runs, as a core does that is stopped."""
        self.state = "stopped"
        self._fail_all("the engine was stopped")
        for task in self._sequences.values():
            task.cancel()

    def release(self, tokens: int) -> None:
        """Let every sequence, those to come too, say this many tokens more."""
        assert self._allowance is not None, "this engine holds nothing back"
        self._allowance += tokens
        self._more.set()
        self._more = asyncio.Event()

    @property
    def running(self) -> int:
        return len(self._sequences)

    def die(self) -> None:
        """As when the core's process is killed."""
        self.state = "restarting"
        for task in self._sequences.values():
            task.cancel()
        self._sequences.clear()
        self._fail_all("The engine core died while it worked on this request; it is being started again.")

    @property
    def _is_connected(self) -> bool:
        return True

    def _send(self, message: wire.ToCore) -> None:
        wire.to_core_decoder.decode(wire.frame(message)[4:])  # what can't cross the socket fails here too
        if isinstance(message, wire.Add):
            self.added.append(message.request)
            self._sequences[message.request.request_id] = asyncio.create_task(self._run(message.request))
        elif isinstance(message, wire.Abort):
            for request_id in message.request_ids:
                self.aborted.append(request_id)
                self._sequences.pop(request_id).cancel()

    async def _run(self, request: Request) -> None:
        params = request.params
        room = self.info.max_model_len - len(request.prompt_token_ids)
        stream = OutputStream(
            self.tokenizer,
            params,
            request.prompt_token_ids,
            SPEC.eos_token_ids,
            room if params.max_tokens is None else min(params.max_tokens, room),
        )
        scheduled = time.monotonic()
        if request.pooling is not None:
            await asyncio.sleep(0)
            self._deliver(
                request.request_id,
                RequestOutput(request_id=request.request_id, embedding=_vector(request), finish_reason="stop"),
            )
            return
        words = self._words(request)
        for said, token in enumerate(words):
            first = said == 0
            await asyncio.sleep(0)
            while self._allowance is not None and said >= self._allowance:
                await self._more.wait()
            output = RequestOutput(
                request_id=request.request_id, cached_tokens=self.cached_tokens, scheduled_time=scheduled
            )
            if params.max_tokens == 0:
                output.finish_reason = "length"
            else:
                output.text, output.finish_reason, output.stop_reason = stream.push(token)
                output.token_ids = [token]
                if params.logprobs is not None:
                    output.logprobs = [_position(token, params.logprobs)]
            if first and params.prompt_logprobs is not None:
                top = params.prompt_logprobs
                output.prompt_logprobs = [None, *(_position(each, top) for each in request.prompt_token_ids[1:])]
            if self.failure is not None and not first:
                output = RequestOutput(
                    request_id=request.request_id,
                    finish_reason="error",
                    error=self.failure.message,
                    error_type=type(self.failure).__name__,
                )
            if self._deliver(request.request_id, output):
                return

    def _words(self, request: Request) -> Iterator[int]:
        if self.says is None:
            return _echo(request)
        return chain(self.tokenizer.encode(self.says, add_special_tokens=False), (2 for _ in count()))

    def _deliver(self, request_id: str, output: RequestOutput) -> bool:
        """Hand a delta to its reader; whether it was the last."""
        self.stats = EngineStats(
            running=self.running,
            kv_blocks_used=4 * self.running,
            kv_blocks_total=INFO.kv_blocks,
            steps=self.stats.steps + 1,
            generation_tokens=self.stats.generation_tokens + len(output.token_ids),
        )
        done = output.finish_reason is not None
        if done:
            self._sequences.pop(request_id, None)
        box = self._mailboxes.get(request_id)
        if box is not None:
            box.put(output)
        return done


def _vector(request: Request) -> bytes:
    """float32 [hidden_size], of the tokens and what was to be pooled."""
    own = random.Random(repr((request.pooling, request.prompt_token_ids)))
    return array("f", (own.gauss(0, 1) for _ in range(SPEC.hidden_size))).tobytes()


def _echo(request: Request) -> Iterator[int]:
    """The prompt's own tokens, control tokens left out, rotated by the seed where the sampling is random."""
    words = [token for token in request.prompt_token_ids if token > 4] or [70]
    if request.params.temperature > 0:
        turn = (request.params.seed or 0) % len(words)
        words = words[turn:] + words[:turn]
    if request.params.ignore_eos:
        return chain.from_iterable(words for _ in count())
    return chain(words, (2 for _ in count()))


def _position(token: int, top: int) -> PositionLogprobs:
    """The chosen token first, then its neighbours, each half as likely as the one before."""
    candidates = [TokenLogprob((token + rank) % 261, -0.7 * (rank + 1), rank + 1) for rank in range(max(top, 1))]
    return PositionLogprobs(candidates[0], candidates[:top])
