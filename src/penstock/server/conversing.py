"""One answer to a conversation as its parts come, for the APIs that answer with more than one text."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from penstock.core.errors import InvalidRequestError
from penstock.models.message_parts import Content
from penstock.server.conversation import prepare_chat

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from penstock.engine.types import PositionLogprobs
    from penstock.models.message_parts import Part
    from penstock.models.message_reader import MessageReader
    from penstock.server.generation import Generation
    from penstock.server.requests import ChatRequest
    from penstock.server.responses import Usage
    from penstock.server.served_model import ModelInUse


@dataclass(frozen=True, slots=True)
class Said:
    """What a delta adds: the parts that it completes, and the log probabilities of its tokens if asked for."""

    parts: list[Part]
    logprobs: list[PositionLogprobs]


class Conversation:
    """One conversation's answer.

    Args:
        generation: of one choice.
        reader: tells the parts apart; None where all text is content.
        context_limited: the answer may have fewer tokens than were asked for, since the context holds no more.
    """

    def __init__(self, generation: Generation, reader: MessageReader | None, *, context_limited: bool) -> None:
        self._generation = generation
        self._reader = reader
        self.context_limited = context_limited
        self.finish_reason = ""
        self.stop_reason: int | str | None = None

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        return self._generation.usage

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of thinking so far."""
        return 0 if self._reader is None else self._reader.reasoning_tokens

    async def said(self) -> AsyncGenerator[Said, None]:
        """What comes, as it comes; afterwards `finish_reason` is known. Closing it aborts the work."""
        reader = self._reader
        async with aclosing(self._generation.deltas()) as deltas:
            async for _, output in deltas:
                if reader is None:
                    parts: list[Part] = [Content(output.text)] if output.text else []
                else:
                    parts = reader.push(output.text, output.token_ids)
                if output.finish_reason is not None:
                    parts += [] if reader is None else reader.finish()
                    calls = reader is not None and reader.calls > 0 and output.finish_reason == "stop"
                    self.finish_reason = "tool_calls" if calls else output.finish_reason
                    self.stop_reason = output.stop_reason
                if parts or output.logprobs:
                    yield Said(parts, output.logprobs or [])


async def converse(
    model: ModelInUse, request: ChatRequest, *, request_id: str, arrived: float, shorten: bool = False
) -> Conversation:
    """Hand a conversation to the engine.

    Args:
        model: answers it.
        request: as of /v1/chat/completions, with one choice.
        request_id: names the work in the engine.
        arrived: `time.monotonic()` when the request did.
        shorten: lower `max_tokens` to what the context leaves instead of refusing it.

    Raises what /v1/chat/completions raises before its first byte, naming that API's fields.
    """
    limited = False
    if shorten and request.max_tokens is not None:
        chat = await prepare_chat(model, msgspec.structs.replace(request, max_tokens=None))
        room = model.context - len(chat.prompt)
        limited = request.max_tokens > room
        params = msgspec.structs.replace(chat.params, max_tokens=min(request.max_tokens, room))
    else:
        chat = await prepare_chat(model, request)
        params = chat.params
    generation = model.start(request, [chat.prompt], params, request_id=request_id, arrived=arrived)
    reader = None if chat.new_reader is None else chat.new_reader()
    return Conversation(generation, reader, context_limited=limited)


def renamed(error: InvalidRequestError, names: Sequence[tuple[str, str]]) -> InvalidRequestError:
    """The same error, calling its field what the client called it.

    Args:
        error: names a field of a ChatRequest.
        names: beginnings of such names and what stands for them, the first that fits counting.
    """
    for ours, theirs in names:
        if error.param is not None and error.param.startswith(ours):
            param = theirs + error.param.removeprefix(ours)
            message = error.message.replace(error.param, param).replace(f"'{ours}'", f"'{theirs}'")
            if "." in ours:  # a path, so no word of a sentence
                message = message.replace(ours, theirs)
            return InvalidRequestError(message, param=param, code=error.code)
    return error
