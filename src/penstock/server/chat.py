"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import TYPE_CHECKING

from msgspec import UNSET

from penstock.core.errors import InvalidRequestError
from penstock.server.body import BodyReader
from penstock.server.generation import UsageReports
from penstock.server.logprobs import chat_logprobs, prompt_logprobs
from penstock.server.manifest.generation import CHAT
from penstock.server.requests import ChatRequest
from penstock.server.responses import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    Delta,
)
from penstock.server.sampling import check_room, sampling_params
from penstock.server.service import check_stream_options
from penstock.server.sse import DONE, event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from msgspec import UnsetType
    from starlette.requests import Request
    from starlette.responses import Response

    from penstock.engine.types import PositionLogprobs, RequestOutput
    from penstock.server.generation import Choice, Generation
    from penstock.server.responses import PromptLogprobs, Usage
    from penstock.server.served_model import Head, ModelInUse
    from penstock.server.service import Service

_body = BodyReader(ChatRequest, CHAT)


async def chat_completions(http: Request) -> Response:
    """Answer a conversation, whole or as a stream."""
    arrived = time.monotonic()
    service: Service = http.app.state.service
    request, headers = await _body.read(http, service.settings.max_body_bytes)
    model = await service.models.use(request.model)
    head = model.head("chatcmpl")
    check_stream_options(request)
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequestError(
            "'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs", code="invalid_value"
        )
    field = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    max_tokens = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    params = sampling_params(
        request,
        max_tokens=max_tokens,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        prompt_logprobs=request.prompt_logprobs,
        vocab_size=model.engine.spec.vocab_size,
    )
    prompt = await model.prompts.from_messages(request, request.messages)
    check_room(len(prompt), max_tokens, model.context, prompt_field="messages", max_tokens_field=field)
    generation = model.start(request, [prompt], params, request_id=head.id, arrived=arrived)
    answer = ChatAnswer(model, request, head, generation)
    return await service.answer(
        http,
        generation,
        whole=answer.whole,
        events=answer.events() if request.stream else None,
        headers={"x-request-id": head.id, **headers},
    )


class ChatAnswer:
    """Writes one chat completion in OpenAI's shape."""

    def __init__(self, model: ModelInUse, request: ChatRequest, head: Head, generation: Generation) -> None:
        self._tokenizer = model.engine.tokenizer
        self._request = request
        self._head = head
        self._generation = generation

    def whole(self, choices: list[Choice]) -> ChatCompletion:
        """The body of an answer that isn't streamed."""
        head = self._head
        return ChatCompletion(
            id=head.id,
            created=head.created,
            model=head.model,
            system_fingerprint=head.system_fingerprint,
            choices=[
                ChatChoice(
                    index=choice.index,
                    message=AssistantMessage(choice.text),
                    logprobs=self._logprobs(choice.logprobs),
                    finish_reason=choice.finish_reason,
                    stop_reason=choice.stop_reason,
                )
                for choice in choices
            ],
            usage=self._generation.usage,
            prompt_logprobs=self._prompt_logprobs(choices[0]),
        )

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The events of a stream: for each choice its role, then its deltas; at the end usage, if asked for."""
        usage = UsageReports(self._generation, self._request.stream_options)
        announced: set[int] = set()
        async with aclosing(self._generation.deltas()) as deltas:
            async for index, output in deltas:
                payload = b""
                if index not in announced:
                    announced.add(index)
                    delta = Delta(role="assistant", content="")
                    payload = self._event([ChatChunkChoice(index=index, delta=delta)], usage.now())
                if output.text or output.logprobs or output.finish_reason:
                    payload += self._event([self._choice(index, output)], usage.now())
                if payload:
                    yield payload
        if usage.at_end:
            yield self._event([], self._generation.usage)
        yield DONE

    def _event(self, choices: list[ChatChunkChoice], usage: Usage | UnsetType | None) -> bytes:
        head = self._head
        return event(
            ChatChunk(
                id=head.id,
                created=head.created,
                model=head.model,
                system_fingerprint=head.system_fingerprint,
                choices=choices,
                usage=usage,
            )
        )

    def _choice(self, index: int, output: RequestOutput) -> ChatChunkChoice:
        return ChatChunkChoice(
            index=index,
            delta=Delta(content=output.text or None),
            logprobs=self._logprobs(output.logprobs),
            finish_reason=output.finish_reason,
            stop_reason=UNSET if output.stop_reason is None else output.stop_reason,
        )

    def _logprobs(self, positions: list[PositionLogprobs] | None) -> ChatLogprobs | None:
        if not self._request.logprobs:
            return None
        return chat_logprobs(self._tokenizer, positions or [], self._request.top_logprobs or 0)

    def _prompt_logprobs(self, choice: Choice) -> PromptLogprobs | UnsetType:
        top = self._request.prompt_logprobs
        return UNSET if top is None else prompt_logprobs(self._tokenizer, choice.prompt_logprobs or (), top)
