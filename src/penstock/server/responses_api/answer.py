"""One answer in the shape of the Responses API, whole or as events."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Literal

from msgspec import structs

from penstock.core.errors import InvalidRequestError, OverloadedError
from penstock.server.logprobs import chat_logprobs
from penstock.server.responses_api.objects import (
    IncompleteDetails,
    InputTokensDetails,
    OutputLogprob,
    OutputTokensDetails,
    OutputTopLogprob,
    ResponseError,
    ResponseUsage,
)
from penstock.server.responses_api.writer import ItemWriter
from penstock.server.sse import named_event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from penstock.core.errors import PenstockError
    from penstock.engine.types import PositionLogprobs
    from penstock.models.tokenizer import Tokenizer
    from penstock.server.conversing import Conversation
    from penstock.server.responses_api.objects import ResponseEvent, ResponseObject


class ResponseAnswer:
    """Writes one response.

    Args:
        response: as it is before anything has been said, in progress.
        conversation: says it.
        tokenizer: for log probabilities.
        top_logprobs: how many candidates for each token; None is no log probabilities at all.
        keep: called with the response once it has ended well, before the client knows.
    """

    def __init__(
        self,
        response: ResponseObject,
        conversation: Conversation,
        tokenizer: Tokenizer,
        *,
        top_logprobs: int | None,
        keep: Callable[[ResponseObject], Awaitable[None]],
    ) -> None:
        self._response = response
        self._conversation = conversation
        self._tokenizer = tokenizer
        self._top_logprobs = top_logprobs
        self._keep = keep
        self._writer = ItemWriter()

    async def whole(self) -> ResponseObject:
        """The response once it has ended."""
        async with aclosing(self._conversation.said()) as said:
            async for each in said:
                self._writer.push(each.parts, self._logprobs(each.logprobs))
        return await self._end()

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The events of a stream, from response.created to response.completed or response.incomplete."""
        begun = False
        async with aclosing(self._conversation.said()) as said:
            async for each in said:
                events = [] if begun else self._begin()
                begun = True
                events += self._writer.push(each.parts, self._logprobs(each.logprobs))
                if events:
                    yield _encode(events)
        events = [] if begun else self._begin()
        events += self._writer.finish(self._status)
        response = await self._end()
        yield _encode([*events, self._writer.event(response.status, response=response)])

    def failed(self, error: PenstockError) -> bytes:
        """The last event of a stream that failed."""
        self._writer.finish("incomplete")
        response = failed(structs.replace(self._response, output=self._writer.items), error)
        return _encode([self._writer.event("failed", response=response)])

    def _begin(self) -> list[ResponseEvent]:
        kinds = ("created", "in_progress")
        return [self._writer.event(kind, response=self._response) for kind in kinds]

    @property
    def _status(self) -> Literal["completed", "incomplete"]:
        return "incomplete" if self._conversation.finish_reason == "length" else "completed"

    async def _end(self) -> ResponseObject:
        status = self._status
        self._writer.finish(status)
        usage = self._conversation.usage
        response = structs.replace(
            self._response,
            status=status,
            completed_at=int(time.time()) if status == "completed" else None,
            incomplete_details=IncompleteDetails() if status == "incomplete" else None,
            output=self._writer.items,
            usage=ResponseUsage(
                input_tokens=usage.prompt_tokens,
                input_tokens_details=InputTokensDetails(usage.prompt_tokens_details.cached_tokens),
                output_tokens=usage.completion_tokens,
                output_tokens_details=OutputTokensDetails(self._conversation.reasoning_tokens),
                total_tokens=usage.total_tokens,
            ),
        )
        await self._keep(response)
        return response

    def _logprobs(self, positions: list[PositionLogprobs]) -> list[OutputLogprob]:
        if self._top_logprobs is None:
            return []
        return [
            OutputLogprob(
                token=each.token,
                bytes=each.bytes,
                logprob=each.logprob,
                top_logprobs=[
                    OutputTopLogprob(token=top.token, bytes=top.bytes, logprob=top.logprob) for top in each.top_logprobs
                ],
            )
            for each in chat_logprobs(self._tokenizer, positions, self._top_logprobs).content
        ]


def failed(response: ResponseObject, error: PenstockError) -> ResponseObject:
    """The response that this error has ended."""
    code = "server_error"
    if isinstance(error, InvalidRequestError):
        code = "invalid_prompt"
    elif isinstance(error, OverloadedError):
        code = "rate_limit_exceeded"
    return structs.replace(response, status="failed", error=ResponseError(code=code, message=error.message))


def _encode(events: list[ResponseEvent]) -> bytes:
    return b"".join(named_event(event.type, event) for event in events)
