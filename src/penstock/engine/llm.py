"""The engine in Python: `LLM` for scripts, `AsyncLLM` for programs with an event loop."""

from __future__ import annotations

import asyncio
import itertools
import threading
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from penstock.core.errors import InvalidRequestError
from penstock.engine.client import EngineClient
from penstock.engine.config import EngineConfig
from penstock.engine.types import SamplingParams
from penstock.models.store import resolve

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from penstock.engine.types import AdapterInfo, FinishReason, PositionLogprobs, RequestOutput

Prompt = str | list[int]
T = TypeVar("T")


@dataclass(slots=True)
class Completion:
    """One choice's text so far, or whole once `finish_reason` is set."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[PositionLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None

    def add(self, delta: RequestOutput) -> None:
        self.text += delta.text
        self.token_ids += delta.token_ids
        if delta.logprobs is not None:
            self.logprobs = (self.logprobs or []) + delta.logprobs
        self.finish_reason = delta.finish_reason
        self.stop_reason = delta.stop_reason


@dataclass(slots=True)
class Generation:
    """A prompt and its `n` choices, in order."""

    prompt: str | None
    prompt_token_ids: list[int]
    choices: list[Completion]
    prompt_logprobs: list[PositionLogprobs | None] | None = None
    cached_tokens: int = 0

    @property
    def text(self) -> str:
        """The first choice's text."""
        return self.choices[0].text


class AsyncLLM:
    """One model behind `async` calls.

        async with AsyncLLM("smollm2") as llm:
            async for generation in llm.stream("Hello", SamplingParams(max_tokens=8)):
                print(generation.text)

    Args:
        model: a local path, a catalogue name, or `hf:owner/name[:QUANT]`.
        lora: adapters to load at the start: names and directories, as PEFT saves them.
        options: any field of `engine.config.EngineConfig`.

    Raises:
        ConfigError, ModelFileError, StoreError: from `start`.
    """

    def __init__(self, model: str = "smollm2", *, lora: Mapping[str, str | Path] | None = None, **options: Any) -> None:
        self._model = model
        self._options = options
        if lora is not None:
            self._options["lora_modules"] = tuple((name, str(path)) for name, path in lora.items())
        self._ids = itertools.count()
        self.client: EngineClient

    async def start(self) -> None:
        path = await asyncio.to_thread(resolve, self._model)
        self.client = EngineClient(EngineConfig(model_path=str(path), **self._options))
        await self.client.start()

    async def close(self) -> None:
        await self.client.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def load_adapter(self, name: str, path: str | Path) -> AdapterInfo:
        """Load the adapter in directory `path` beside those there are.

        Raises InvalidRequestError for a name in use or where there are too many, NotFoundError and ModelFileError for
        files that aren't there or can't be used.
        """
        return await self.client.load_adapter(name, str(path))

    def unload_adapter(self, name: str) -> None:
        """Take no more prompts for an adapter; those that it has are finished. Raises NotFoundError."""
        self.client.unload_adapter(name)

    async def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, *, priority: int = 0, adapter: str = ""
    ) -> AsyncGenerator[Generation]:
        """The same growing Generation after every delta; leaving the loop early aborts the request.

        `adapter` names one that is loaded; empty: the model itself. Raises NotFoundError if there is none.
        """
        params = params or SamplingParams()
        token_ids = self.client.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        generation = Generation(
            prompt if isinstance(prompt, str) else None, token_ids, [Completion(i) for i in range(params.n)]
        )
        deltas = self.client.generate(
            token_ids, params, request_id=f"llm-{next(self._ids)}", priority=priority, adapter=adapter
        )
        async with aclosing(deltas):  # leaving early must abort now, not when the garbage is collected
            async for index, delta in deltas:
                generation.choices[index].add(delta)
                generation.cached_tokens = delta.cached_tokens
                if delta.prompt_logprobs is not None:
                    generation.prompt_logprobs = delta.prompt_logprobs
                yield generation

    async def generate(
        self, prompt: Prompt, params: SamplingParams | None = None, *, priority: int = 0, adapter: str = ""
    ) -> Generation:
        """The whole generation of one prompt; arguments as for `stream`."""
        stages = [generation async for generation in self.stream(prompt, params, priority=priority, adapter=adapter)]
        if not stages:
            raise InvalidRequestError("Nothing was asked for: n must be at least 1.", param="n")
        return stages[-1]


class LLM:
    """One model behind blocking calls, its event loop in a thread.

        >>> llm = LLM("smollm2")  # doctest: +SKIP
        >>> llm.generate(["The capital of France is"], SamplingParams(max_tokens=4))[0].text  # doctest: +SKIP

    Args:
        model: as for AsyncLLM.
        lora: likewise.
        options: any field of `engine.config.EngineConfig`.
    """

    def __init__(self, model: str = "smollm2", *, lora: Mapping[str, str | Path] | None = None, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="penstock-llm", daemon=True)
        self._thread.start()
        self._llm = AsyncLLM(model, lora=lora, **options)
        try:
            self._wait(self._llm.start())
        except BaseException:
            self._stop_loop()
            raise

    def load_adapter(self, name: str, path: str | Path) -> AdapterInfo:
        """As `AsyncLLM.load_adapter`."""
        return self._wait(self._llm.load_adapter(name, path))

    def unload_adapter(self, name: str) -> None:
        """As `AsyncLLM.unload_adapter`."""

        async def unload() -> None:
            self._llm.unload_adapter(name)

        self._wait(unload())

    def generate(
        self,
        prompts: Prompt | list[str] | list[list[int]],
        params: SamplingParams | list[SamplingParams] | None = None,
        *,
        adapter: str | list[str] = "",
    ) -> list[Generation]:
        """All prompts at once, batched by the engine; results in the prompts' order.

        Args:
            prompts: one text, one list of token ids, or a list of either.
            params: one for all, or one for each prompt.
            adapter: the adapter that answers, for all or for each prompt; empty: the model itself.

        Raises:
            InvalidRequestError: a prompt or parameter is wrong; none of the others is lost to the engine.
            NotFoundError: no adapter of that name is loaded.
            EngineDeadError: the core died.
        """
        many = _as_list(prompts)
        each = params if isinstance(params, list) else [params or SamplingParams()] * len(many)
        if len(each) != len(many):
            raise InvalidRequestError(f"{len(many)} prompts but {len(each)} sampling parameters.", param="params")
        adapters = adapter if isinstance(adapter, list) else [adapter] * len(many)
        if len(adapters) != len(many):
            raise InvalidRequestError(f"{len(many)} prompts but {len(adapters)} adapters.", param="adapter")
        return self._wait(self._all(zip(many, each, adapters, strict=True)))

    def chat(
        self, messages: list[dict[str, Any]], params: SamplingParams | None = None, *, adapter: str = ""
    ) -> Generation:
        """One reply to a conversation, by the model's own chat template."""
        template = self._llm.client.chat_template
        if template is None:
            raise InvalidRequestError("This model has no chat template; use generate().", param="messages")
        token_ids = self._llm.client.tokenizer.encode(template.render(messages), add_special_tokens=False)
        return self._wait(self._llm.generate(token_ids, params, adapter=adapter))

    def close(self) -> None:
        """End the engine; calling it twice does no harm."""
        if self._thread.is_alive():
            self._wait(self._llm.close())
            self._stop_loop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _all(self, work: Iterable[tuple[Prompt, SamplingParams, str]]) -> list[Generation]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._llm.generate(prompt, params, adapter=adapter))
                for prompt, params, adapter in work
            ]
        return [task.result() for task in tasks]

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _as_list(prompts: Prompt | list[str] | list[list[int]]) -> list[Prompt]:
    if isinstance(prompts, str):
        return [prompts]
    if prompts and isinstance(prompts[0], int):
        return [[token for token in prompts if isinstance(token, int)]]
    return [prompt for prompt in prompts if not isinstance(prompt, int)]
