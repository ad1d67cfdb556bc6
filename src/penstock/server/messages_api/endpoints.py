"""POST /v1/messages and POST /v1/messages/count_tokens."""

from __future__ import annotations

import time
import uuid
from contextlib import aclosing
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError
from penstock.server.body import BodyReader
from penstock.server.conversation import after_steps
from penstock.server.conversing import converse
from penstock.server.hangup import while_connected
from penstock.server.manifest.messages import COUNT, MESSAGES
from penstock.server.messages_api.objects import (
    AnthropicAnswer,
    EventDelta,
    MessageEvent,
    MessageUsage,
    ThinkingTokens,
    TokenCount,
    anthropic_error,
)
from penstock.server.messages_api.requests import CountRequest, MessagesRequest
from penstock.server.messages_api.translate import chat_request, in_own_words
from penstock.server.messages_api.writer import BlockWriter
from penstock.server.service import json_response
from penstock.server.sse import EventStream, named_event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request
    from starlette.responses import Response

    from penstock.core.errors import PenstockError
    from penstock.server.conversing import Conversation
    from penstock.server.messages_api.objects import AnswerBlock
    from penstock.server.service import Service

_body = BodyReader(MessagesRequest, MESSAGES)
_count_body = BodyReader(CountRequest, COUNT)


async def messages(http: Request) -> Response:
    """Answer a conversation, whole or as a stream."""
    arrived = time.monotonic()
    service: Service = http.app.state.service
    request, headers = await _body.read(http, service.settings.max_body_bytes)
    model = await service.models.use_for_chat(request.model)
    name = f"msg_{uuid.uuid4().hex}"
    try:
        chat = await after_steps(model, chat_request(request), http.receive)
        conversation = await converse(model, chat, request_id=name, arrived=arrived, shorten=True)
    except InvalidRequestError as error:
        raise in_own_words(error) from error
    answer = MessageAnswer(name, model.name, conversation)
    headers = {"request-id": name, "x-request-id": name, **headers, **model.timing}
    if request.stream:
        return EventStream(
            answer.events(),
            headers=headers,
            keepalive_seconds=service.settings.keepalive_seconds,
            failure=_error_event,
        )
    return json_response(await while_connected(http.receive, answer.whole()), headers)


async def count_message_tokens(http: Request) -> Response:
    """How many tokens the prompt of such a request has."""
    service: Service = http.app.state.service
    request, headers = await _count_body.read(http, service.settings.max_body_bytes)
    model = await service.models.use(request.model)
    chat = chat_request(request)
    try:
        prompt = await model.prompts.from_messages(chat, chat.messages)
    except InvalidRequestError as error:
        raise in_own_words(error) from error
    return json_response(TokenCount(len(prompt.token_ids)), headers)


class MessageAnswer:
    """Writes one answer in Anthropic's shape."""

    def __init__(self, name: str, model: str, conversation: Conversation) -> None:
        self._name = name
        self._model = model
        self._conversation = conversation
        self._writer = BlockWriter()

    async def whole(self) -> AnthropicAnswer:
        """The body of an answer that isn't streamed."""
        async with aclosing(self._conversation.said()) as said:
            async for each in said:
                self._writer.push(each.parts)
        self._writer.finish()
        reason, sequence = self._end()
        return self._message(self._writer.blocks, reason, sequence)

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The events of a stream, from message_start to message_stop."""
        begun = False
        async with aclosing(self._conversation.said()) as said:
            async for each in said:
                events = self._writer.push(each.parts)
                if not begun:
                    begun = True
                    events.insert(0, self._start())
                if events:
                    yield b"".join(map(_event, events))
        reason, sequence = self._end()
        end = MessageEvent(
            type="message_delta",
            delta=EventDelta(stop_reason=reason, stop_sequence=sequence),
            usage=self._usage(),
        )
        events = [*([] if begun else [self._start()]), *self._writer.finish(), end, MessageEvent(type="message_stop")]
        yield b"".join(map(_event, events))

    def _start(self) -> MessageEvent:
        return MessageEvent(type="message_start", message=self._message([], None, None))

    def _message(self, content: list[AnswerBlock], reason: str | None, sequence: str | None) -> AnthropicAnswer:
        return AnthropicAnswer(
            id=self._name,
            model=self._model,
            content=content,
            stop_reason=reason,
            stop_sequence=sequence,
            usage=self._usage(),
        )

    def _usage(self) -> MessageUsage:
        usage = self._conversation.usage
        cached = usage.prompt_tokens_details.cached_tokens
        return MessageUsage(
            input_tokens=usage.prompt_tokens - cached,
            output_tokens=usage.completion_tokens,
            output_tokens_details=ThinkingTokens(self._conversation.reasoning_tokens),
            cache_read_input_tokens=cached,
        )

    def _end(self) -> tuple[str, str | None]:
        """Why it ended, and the stop sequence that did it."""
        conversation = self._conversation
        match conversation.finish_reason:
            case "tool_calls":
                return "tool_use", None
            case "length":
                return ("model_context_window_exceeded" if conversation.context_limited else "max_tokens"), None
        if isinstance(conversation.stop_reason, str):
            return "stop_sequence", conversation.stop_reason
        return "end_turn", None


def _event(event: MessageEvent) -> bytes:
    return named_event(event.type, event)


def _error_event(error: PenstockError) -> bytes:
    return _event(MessageEvent(type="error", error=anthropic_error(error.http_status, error.message)))
