"""One HTTP request's work in the engine: one or more prompts, each with its choices, as one stream of deltas."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec import UNSET

from penstock.core.errors import PenstockError
from penstock.server.observe import RequestObserver
from penstock.server.responses import CompletionTokensDetails, PromptTokensDetails, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from msgspec import UnsetType

    from penstock.engine.client import EngineClient
    from penstock.engine.types import PositionLogprobs, RequestOutput, SamplingParams
    from penstock.server.observe import ModelObserver
    from penstock.server.requests import StreamOptions

    Deltas = AsyncGenerator[tuple[int, RequestOutput], None]


@dataclass(slots=True)
class Choice:
    """One sequence's whole output."""

    index: int
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    prompt_logprobs: list[PositionLogprobs | None] | None = None
    finish_reason: str = ""
    stop_reason: int | str | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def add(self, output: RequestOutput) -> None:
        """Append a delta."""
        self.texts.append(output.text)
        self.token_ids += output.token_ids
        self.logprobs += output.logprobs or ()
        if output.prompt_logprobs is not None:
            self.prompt_logprobs = output.prompt_logprobs
        if output.finish_reason is not None:
            self.finish_reason, self.stop_reason = output.finish_reason, output.stop_reason


class Generation:
    """Choice `i` belongs to prompt `i // params.n`.

    Args:
        engine: what generates.
        prompts: token ids of each prompt.
        params: of every prompt.
        request_id: names the work in the engine.
        priority: lower runs first.
        cache_salt: prefixes are shared only under the same one.
        adapter: the name of one that the model has loaded; empty: none.
        arrived: `time.monotonic()` when the request did.
        grammar_field: the request field that `params.grammar` was made from.
        observer: where it is counted.
        holds: stays alive for as long as this does: the model, so that it stays loaded.

    Raises what `EngineClient.generate` raises before anything is queued: a prompt that doesn't fit, a full queue, a
    core that is down.
    """

    def __init__(
        self,
        engine: EngineClient,
        prompts: list[list[int]],
        params: SamplingParams,
        *,
        request_id: str,
        priority: int,
        cache_salt: str,
        adapter: str = "",
        arrived: float,
        grammar_field: str | None = None,
        observer: ModelObserver,
        holds: object = None,
    ) -> None:
        self._holds = holds
        self._grammar_field = grammar_field
        self.prompts = prompts
        self.n = params.n
        self._cached = [0] * len(prompts)
        self._completion_tokens = 0
        self.reasoning_tokens: int | None = None  # set by whoever reads the answers of a model that thinks
        self._streams = [
            engine.generate(
                prompt,
                params,
                request_id=f"{request_id}-{index}",
                priority=priority,
                cache_salt=cache_salt,
                adapter=adapter,
            )
            for index, prompt in enumerate(prompts)
        ]
        self._observer = RequestObserver(
            observer,
            arrived=arrived,
            prompt_tokens=self.prompt_tokens,
            choices=len(prompts) * params.n,
            structured=params.grammar is not None,
        )

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        prompt_tokens = self.prompt_tokens
        return Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=self._completion_tokens,
            total_tokens=prompt_tokens + self._completion_tokens,
            prompt_tokens_details=PromptTokensDetails(sum(self._cached)),
            completion_tokens_details=UNSET
            if self.reasoning_tokens is None
            else CompletionTokensDetails(self.reasoning_tokens),
        )

    async def deltas(self) -> Deltas:
        """(choice, delta) as they come. Closing it aborts what is still running.

        Raises EngineDeadError if the core dies, PenstockError if a sequence fails.
        """
        source = self._streams[0] if len(self._streams) == 1 else _merged(self._streams, self.n)
        error: BaseException | None = None
        try:
            async with aclosing(source):
                async for index, output in source:
                    self._completion_tokens += len(output.token_ids)
                    if index % self.n == 0:
                        self._cached[index // self.n] = output.cached_tokens
                    self._observer.saw(index, output)
                    yield index, output
        except Exception as raised:
            error = raised
            if isinstance(raised, PenstockError) and raised.param == "grammar":
                raised.param = self._grammar_field  # the client knows no field of that name
            raise
        finally:
            self._observer.ended(error)
            error = None  # it holds this frame: together they would keep the model until the collector comes by

    async def collect(self) -> list[Choice]:
        """All choices, whole, by index. Raises as `deltas` does."""
        choices = [Choice(index) for index in range(len(self.prompts) * self.n)]
        async with aclosing(self.deltas()) as deltas:
            async for index, output in deltas:
                choices[index].add(output)
        return choices


class UsageReports:
    """When a stream reports usage: never, at its end, or with each chunk too.

    Args:
        generation: whose usage.
        options: what the client asked for.
    """

    def __init__(self, generation: Generation, options: StreamOptions | None) -> None:
        self._generation = generation
        self.at_end = options is not None and bool(options.include_usage)
        self._with_each = self.at_end and options is not None and bool(options.continuous_usage_stats)

    def now(self) -> Usage | UnsetType | None:
        """A chunk's `usage`: null where only the last chunk has it, absent where none has."""
        if self._with_each:
            return self._generation.usage
        return None if self.at_end else UNSET


async def _merged(streams: list[Deltas], n: int) -> Deltas:
    """Deltas of several prompts in the order they come; a slow reader makes the engine merge them, as with one."""
    arrived: asyncio.Queue[tuple[int, RequestOutput] | asyncio.Task[None]] = asyncio.Queue()
    places = asyncio.Semaphore(len(streams))  # the queue itself must take a task's end at once, or it could be missed

    async def pump(first: int, stream: Deltas) -> None:
        async with aclosing(stream):
            async for index, output in stream:
                await places.acquire()
                arrived.put_nowait((first + index, output))

    item: tuple[int, RequestOutput] | asyncio.Task[None] | None = None
    tasks = [asyncio.create_task(pump(at * n, stream)) for at, stream in enumerate(streams)]
    for task in tasks:
        task.add_done_callback(arrived.put_nowait)
    try:
        running = len(tasks)
        while running:
            item = await arrived.get()
            if isinstance(item, asyncio.Task):
                running -= 1
                await item  # raises what it failed with
            else:
                places.release()
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        tasks.clear()  # one that failed holds its error, and the error this frame
        del task, item
