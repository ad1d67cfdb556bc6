"""A conversation with a model, whoever runs it: turns, settings, and what each answer took."""

from __future__ import annotations

import itertools
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from penstock.core.errors import InvalidRequestError
from penstock.core.suggest import did_you_mean
from penstock.engine.params import params_from
from penstock.engine.types import SamplingParams

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from penstock.engine.client import EngineClient
    from penstock.engine.types import RequestOutput

    Pieces = AsyncGenerator[str, None]
    Deltas = AsyncGenerator[tuple[int, RequestOutput], None]

Message = dict[str, Any]


@dataclass(slots=True)
class ReplyStats:
    """What one answer took. Times in seconds."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    ttft: float | None = None  # from asking to the first text
    seconds: float = 0.0
    finish_reason: str | None = None  # None: stopped half-way

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens after the first per second after the first: the pace one reads at. None for fewer than two."""
        if self.ttft is None or self.completion_tokens < 2 or self.seconds <= self.ttft:
            return None
        return (self.completion_tokens - 1) / (self.seconds - self.ttft)

    def as_dict(self) -> dict[str, Any]:
        return {**msgspec.to_builtins(self), "tokens_per_second": self.tokens_per_second}


class Talker(Protocol):
    """Something that answers: the engine in this process, or a server."""

    model: str

    def reply(self, messages: list[Message], params: SamplingParams, stats: ReplyStats) -> Pieces:
        """The answer's text as it comes, `stats` counted meanwhile; closing the iterator stops the answer."""
        ...

    async def close(self) -> None: ...


class EngineTalker:
    """Talks to an engine that this process started."""

    def __init__(self, client: EngineClient, model: str) -> None:
        self.model = model
        self._client = client
        self._ids = itertools.count(1)

    async def reply(self, messages: list[Message], params: SamplingParams, stats: ReplyStats) -> Pieces:
        template = self._client.chat_template
        if template is None:
            raise InvalidRequestError(f"{self.model} has no chat template, so it can't hold a conversation.")
        prompt = template.render(messages, add_generation_prompt=True)
        token_ids = self._client.tokenizer.encode(prompt, add_special_tokens=False)
        stats.prompt_tokens = len(token_ids)
        stream = self._client.generate(token_ids, params, request_id=f"chat-{next(self._ids)}")
        async with aclosing(stream) as deltas:  # closing it is what aborts the request
            async for _, delta in deltas:
                stats.completion_tokens += len(delta.token_ids)
                stats.cached_tokens = delta.cached_tokens
                stats.finish_reason = delta.finish_reason
                if delta.text:
                    yield delta.text

    async def close(self) -> None:
        await self._client.close()


@dataclass(slots=True)
class Conversation:
    """The turns so far. The engine keeps nothing of them but its prefix cache."""

    talker: Talker
    params: SamplingParams
    system: str | None = None
    turns: list[Message] = field(default_factory=list)
    last: ReplyStats | None = None

    async def say(self, text: str) -> Pieces:
        """The answer to `text`, as it comes. What was said so far is kept if the reader stops it half-way;
        a turn that fails is taken back."""
        self.turns.append({"role": "user", "content": text})
        said: list[str] = []
        stats = ReplyStats()
        began = time.monotonic()
        try:
            async with aclosing(self.talker.reply(self._messages(), self.params, stats)) as pieces:
                async for piece in pieces:
                    if stats.ttft is None:
                        stats.ttft = time.monotonic() - began
                    said.append(piece)
                    yield piece
        finally:
            stats.seconds = time.monotonic() - began
            self.last = stats
            if said or stats.finish_reason is not None:
                self.turns.append({"role": "assistant", "content": "".join(said)})
            else:
                self.turns.pop()

    def set(self, name: str, value: str) -> None:
        """Change a sampling parameter by its name. Raises InvalidRequestError."""
        if name not in SamplingParams.__struct_fields__:
            known = SamplingParams.__struct_fields__
            raise InvalidRequestError(f"There is no parameter {name!r}.{did_you_mean(name, known)}", param=name)
        self.params = params_from({name: _value(value)}, self.params)

    def reset(self) -> None:
        """Forget the turns; the system prompt and the settings stay."""
        self.turns.clear()

    def _messages(self) -> list[Message]:
        return ([{"role": "system", "content": self.system}] if self.system else []) + self.turns


def _value(text: str) -> Any:
    """What a person typed as the value it most likely is: JSON, else the text itself."""
    if text.lower() == "none":
        return None
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
