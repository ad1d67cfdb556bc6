"""POST /v1/completions."""

from __future__ import annotations

import time
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from msgspec import UNSET

from penstock.server.body import BodyReader
from penstock.server.generation import Choice, UsageReports
from penstock.server.logprobs import CompletionLogprobsWriter, prompt_logprobs
from penstock.server.manifest.generation import COMPLETIONS
from penstock.server.requests import CompletionRequest
from penstock.server.responses import Completion, CompletionChoice, CompletionLogprobs
from penstock.server.sampling import check_room, sampling_params
from penstock.server.service import check_stream_options
from penstock.server.sse import DONE, event
from penstock.server.structured import field_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from msgspec import UnsetType
    from starlette.requests import Request
    from starlette.responses import Response

    from penstock.engine.types import RequestOutput
    from penstock.server.generation import Generation
    from penstock.server.requests import Prompt
    from penstock.server.responses import PromptLogprobs, Usage
    from penstock.server.served_model import Head, ModelInUse
    from penstock.server.service import Service

DEFAULT_MAX_TOKENS = 16  # OpenAI's

_body = BodyReader(CompletionRequest, COMPLETIONS)


async def completions(http: Request) -> Response:
    """Go on with one text or several, whole or as a stream."""
    arrived = time.monotonic()
    service: Service = http.app.state.service
    request, headers = await _body.read(http, service.settings.max_body_bytes)
    model = await service.models.use(request.model)
    head = model.head("cmpl")
    check_stream_options(request)
    max_tokens = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    wanted = [] if request.prompt_logprobs is None else [request.prompt_logprobs]
    if request.echo and request.logprobs is not None:
        wanted.append(request.logprobs)
    read = partial(
        sampling_params,
        request,
        max_tokens=max_tokens,
        logprobs=request.logprobs,
        prompt_logprobs=max(wanted, default=None),
        vocab_size=model.engine.spec.vocab_size,
    )
    params = await model.prompts.aside(read, quick=field_of(request) is None)  # a schema may be long
    prompts = await model.prompts.from_prompt(
        request.prompt, add_special_tokens=request.add_special_tokens is not False
    )
    for index, prompt in enumerate(prompts):
        field = "prompt" if len(prompts) == 1 else f"prompt[{index}]"
        check_room(len(prompt), max_tokens, model.context, prompt_field=field, max_tokens_field="max_tokens")
    generation = model.start(request, prompts, params, request_id=head.id, arrived=arrived)
    answer = CompletionAnswer(model, request, head, generation)
    return await service.answer(
        http,
        generation,
        whole=answer.whole,
        events=answer.events() if request.stream else None,
        headers={"x-request-id": head.id, **headers},
    )


class CompletionAnswer:
    """Writes one text completion in OpenAI's shape."""

    def __init__(self, model: ModelInUse, request: CompletionRequest, head: Head, generation: Generation) -> None:
        self._tokenizer = model.engine.tokenizer
        self._request = request
        self._head = head
        self._generation = generation
        self._writers: dict[int, CompletionLogprobsWriter] = {}
        self._keeps_special = request.skip_special_tokens is False
        self._echoes = self._prompt_texts(request.prompt) if request.echo else [""] * len(generation.prompts)

    def whole(self, choices: list[Choice]) -> Completion:
        """The body of an answer that isn't streamed."""
        written = [
            CompletionChoice(
                index=choice.index,
                text=self._echo(choice.index) + choice.text,
                logprobs=self._logprobs(choice, first=True),
                finish_reason=choice.finish_reason,
                stop_reason=choice.stop_reason,
                prompt_logprobs=self._prompt_logprobs(choice),
            )
            for choice in choices
        ]
        return self._completion(written, self._generation.usage)

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The events of a stream: each choice's deltas, the first with the prompt if it is echoed; usage at the end."""
        usage = UsageReports(self._generation, self._request.stream_options)
        begun: set[int] = set()
        async with aclosing(self._generation.deltas()) as deltas:
            async for index, output in deltas:
                first = index not in begun
                begun.add(index)
                choice = self._delta(index, output, first=first)
                if choice.text or choice.finish_reason or output.logprobs:
                    yield event(self._completion([choice], usage.now()))
        if usage.at_end:
            yield event(self._completion([], self._generation.usage))
        yield DONE

    def _completion(self, choices: list[CompletionChoice], usage: Usage | UnsetType | None) -> Completion:
        head = self._head
        return Completion(
            id=head.id,
            created=head.created,
            model=head.model,
            system_fingerprint=head.system_fingerprint,
            choices=choices,
            usage=usage,
        )

    def _delta(self, index: int, output: RequestOutput, *, first: bool) -> CompletionChoice:
        part = Choice(index)
        part.add(output)
        return CompletionChoice(
            index=index,
            text=self._echo(index) + output.text if first else output.text,
            logprobs=self._logprobs(part, first=first),
            finish_reason=output.finish_reason,
            stop_reason=output.stop_reason,
        )

    def _echo(self, index: int) -> str:
        return self._echoes[index // self._generation.n]

    def _prompt_texts(self, prompt: Prompt) -> list[str]:
        if isinstance(prompt, str):
            return [prompt]
        texts = [item for item in prompt if isinstance(item, str)]
        decode = self._tokenizer.decode
        return texts or [decode(ids, skip_special_tokens=not self._keeps_special) for ids in self._generation.prompts]

    def _logprobs(self, part: Choice, *, first: bool) -> CompletionLogprobs | None:
        """Of a choice or a delta of it; an echoed prompt comes before the `first`."""
        if self._request.logprobs is None:
            return None
        if part.index not in self._writers:
            skipped = frozenset() if self._keeps_special else self._tokenizer.special_token_ids
            self._writers[part.index] = CompletionLogprobsWriter(
                self._tokenizer, top=self._request.logprobs, skipped=skipped
            )
        writer = self._writers[part.index]
        if not (first and self._request.echo):
            return writer.write(part.token_ids, part.logprobs)
        prompt = self._generation.prompts[part.index // self._generation.n]
        positions = part.prompt_logprobs or [None] * len(prompt)
        return writer.write([*prompt, *part.token_ids], [*positions, *part.logprobs])

    def _prompt_logprobs(self, choice: Choice) -> PromptLogprobs | UnsetType:
        top = self._request.prompt_logprobs
        return UNSET if top is None else prompt_logprobs(self._tokenizer, choice.prompt_logprobs or (), top)
