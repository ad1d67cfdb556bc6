"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import TYPE_CHECKING

from msgspec import UNSET

from penstock.engine.types import RequestOutput
from penstock.models.message_parts import CallArguments, CallBegun, Content, Reasoning, WholeMessage
from penstock.server.body import BodyReader, with_ignored
from penstock.server.conversation import after_steps, prepare_chat
from penstock.server.generation import UsageReports
from penstock.server.logprobs import chat_logprobs, prompt_logprobs
from penstock.server.manifest.generation import CHAT
from penstock.server.requests import ChatRequest
from penstock.server.responses import (
    AssistantMessage,
    CalledFunction,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    Delta,
    FunctionDelta,
    MessageToolCall,
    ToolCallDelta,
)
from penstock.server.service import check_stream_options
from penstock.server.sse import DONE, event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from msgspec import UnsetType
    from starlette.requests import Request
    from starlette.responses import Response

    from penstock.engine.types import PositionLogprobs
    from penstock.models.message_parts import Part
    from penstock.models.message_reader import MessageReader
    from penstock.server.generation import Choice, Generation
    from penstock.server.responses import PromptLogprobs, StepReport, Usage
    from penstock.server.served_model import Head, ModelInUse
    from penstock.server.service import Service

_body = BodyReader(ChatRequest, CHAT)


async def chat_completions(http: Request) -> Response:
    """Answer a conversation, whole or as a stream."""
    arrived = time.monotonic()
    service: Service = http.app.state.service
    request, headers = await _body.read(http, service.settings.max_body_bytes)
    model = await service.models.use_for_chat(request.model)
    head = model.head("chatcmpl")
    check_stream_options(request)
    request = await after_steps(model, request, http.receive)
    chat = await prepare_chat(model, request)
    generation = model.start(request, [chat.prompt], chat.params, request_id=head.id, arrived=arrived)
    answer = ChatAnswer(model, request, head, generation, chat.new_reader)
    return await service.answer(
        http,
        generation,
        whole=answer.whole,
        events=answer.events() if request.stream else None,
        headers={"x-request-id": head.id, **with_ignored(headers, chat.unenforced), **model.timing},
    )


class ChatAnswer:
    """Writes one chat completion in OpenAI's shape.

    Args:
        model: what answers.
        request: the client's.
        head: of the answer and its chunks.
        generation: where its text comes from.
        new_reader: makes what tells a choice's parts apart; None where all text is content.
    """

    def __init__(
        self,
        model: ModelInUse,
        request: ChatRequest,
        head: Head,
        generation: Generation,
        new_reader: Callable[[], MessageReader] | None = None,
    ) -> None:
        self._tokenizer = model.engine.tokenizer
        self._ensemble = model.ensemble
        self._request = request
        self._head = head
        self._generation = generation
        self._new_reader = new_reader
        self._readers: dict[int, MessageReader] = {}
        self._thinks = model.dialect.thinking is not None
        self._shows_reasoning = request.include_reasoning is not False
        self._count_reasoning()

    def whole(self, choices: list[Choice]) -> ChatCompletion:
        """The body of an answer that isn't streamed."""
        head = self._head
        written = [self._whole_choice(choice) for choice in choices]
        return ChatCompletion(
            id=head.id,
            created=head.created,
            model=head.model,
            system_fingerprint=head.system_fingerprint,
            choices=written,
            usage=self._generation.usage,
            prompt_logprobs=self._prompt_logprobs(choices[0]),
            steps=self._steps(),
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
                for choice in self._chunks(index, output):
                    steps = UNSET if choice.finish_reason is None else self._steps()
                    payload += self._event([choice], usage.now(), steps)
                if payload:
                    yield payload
        if usage.at_end:
            yield self._event([], self._generation.usage)
        yield DONE

    def _whole_choice(self, choice: Choice) -> ChatChoice:
        message, finish_reason = AssistantMessage(choice.text), choice.finish_reason
        if self._new_reader is not None:
            reader = self._reader(choice.index)
            parts = WholeMessage()
            parts.add(reader.push(choice.text, choice.token_ids))
            parts.add(reader.finish())
            self._count_reasoning()
            message = _message(parts, shows_reasoning=self._shows_reasoning)
            finish_reason = "tool_calls" if _ends_in_calls(reader, finish_reason) else finish_reason
        return ChatChoice(
            index=choice.index,
            message=message,
            logprobs=self._logprobs(choice.logprobs),
            finish_reason=finish_reason,
            stop_reason=choice.stop_reason,
        )

    def _chunks(self, index: int, output: RequestOutput) -> list[ChatChunkChoice]:
        """What a delta of the engine is to the client: usually one chunk, none while nothing can be shown."""
        if self._new_reader is None:
            if output.text or output.logprobs or output.finish_reason:
                return [self._choice(index, Delta(content=output.text or None), output, output.finish_reason)]
            return []
        reader = self._reader(index)
        parts = reader.push(output.text, output.token_ids)
        if output.finish_reason is not None:
            parts += reader.finish()
        self._count_reasoning()
        deltas = [delta for part in parts if (delta := self._delta(part)) is not None]
        if not deltas and (output.logprobs or output.finish_reason):
            deltas = [Delta()]
        plain = RequestOutput(request_id=output.request_id)
        reason = "tool_calls" if _ends_in_calls(reader, output.finish_reason) else output.finish_reason
        chunks = [self._choice(index, delta, plain, None) for delta in deltas[:-1]]
        return chunks + [self._choice(index, delta, output, reason) for delta in deltas[-1:]]

    def _delta(self, part: Part) -> Delta | None:
        match part:
            case Reasoning(text):
                return Delta(reasoning_content=text, reasoning=text) if self._shows_reasoning else None
            case Content(text):
                return Delta(content=text)
            case CallBegun(index, call_id, name):
                begun = ToolCallDelta(index=index, id=call_id, type="function", function=FunctionDelta("", name))
                return Delta(tool_calls=[begun])
            case CallArguments(index, text):
                return Delta(tool_calls=[ToolCallDelta(index=index, function=FunctionDelta(text))])
            case _:
                return None

    def _reader(self, index: int) -> MessageReader:
        if index not in self._readers:
            assert self._new_reader is not None  # otherwise nothing is read
            self._readers[index] = self._new_reader()
        return self._readers[index]

    def _count_reasoning(self) -> None:
        if self._thinks:
            self._generation.reasoning_tokens = sum(reader.reasoning_tokens for reader in self._readers.values())

    def _event(
        self,
        choices: list[ChatChunkChoice],
        usage: Usage | UnsetType | None,
        steps: list[StepReport] | UnsetType = UNSET,
    ) -> bytes:
        head = self._head
        return event(
            ChatChunk(
                id=head.id,
                created=head.created,
                model=head.model,
                system_fingerprint=head.system_fingerprint,
                choices=choices,
                usage=usage,
                steps=steps,
            )
        )

    def _steps(self) -> list[StepReport] | UnsetType:
        """An ensemble's, once the last has ended."""
        ensemble = self._ensemble
        return UNSET if ensemble is None or not ensemble.ended else ensemble.reports

    def _choice(self, index: int, delta: Delta, output: RequestOutput, finish_reason: str | None) -> ChatChunkChoice:
        return ChatChunkChoice(
            index=index,
            delta=delta,
            logprobs=self._logprobs(output.logprobs),
            finish_reason=finish_reason,
            stop_reason=UNSET if output.stop_reason is None else output.stop_reason,
        )

    def _logprobs(self, positions: list[PositionLogprobs] | None) -> ChatLogprobs | None:
        if not self._request.logprobs:
            return None
        return chat_logprobs(self._tokenizer, positions or [], self._request.top_logprobs or 0)

    def _prompt_logprobs(self, choice: Choice) -> PromptLogprobs | UnsetType:
        top = self._request.prompt_logprobs
        return UNSET if top is None else prompt_logprobs(self._tokenizer, choice.prompt_logprobs or (), top)


def _message(parts: WholeMessage, *, shows_reasoning: bool) -> AssistantMessage:
    reasoning = parts.reasoning if shows_reasoning and parts.reasoning else UNSET
    calls = [MessageToolCall(call.id, CalledFunction(call.name, call.arguments)) for call in parts.calls]
    content = parts.content or None if calls or parts.reasoning else parts.content
    return AssistantMessage(content, reasoning_content=reasoning, reasoning=reasoning, tool_calls=calls or UNSET)


def _ends_in_calls(reader: MessageReader, finish_reason: str | None) -> bool:
    return finish_reason == "stop" and reader.calls > 0
