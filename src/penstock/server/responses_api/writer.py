"""The parts of an answer as the items of a response, and the events that tell of them."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from msgspec import structs

from penstock.models.message_parts import CallArguments, CallBegun, CallEnded, Content, Reasoning
from penstock.server.responses_api.objects import (
    OutputCall,
    OutputMessage,
    OutputReasoning,
    OutputText,
    ReasoningText,
    ResponseEvent,
)

if TYPE_CHECKING:
    from typing import Any

    from penstock.models.message_parts import Part
    from penstock.server.responses_api.objects import ItemStatus, OutputItem, OutputLogprob


class ItemWriter:
    """Feed it each delta's parts, then `finish` it; `items` has what is complete. Events count from 0, over `event`."""

    def __init__(self) -> None:
        self.items: list[OutputItem] = []
        self._events = 0
        self._open: OutputItem | None = None
        self._text: list[str] = []
        self._logprobs: list[OutputLogprob] = []

    def event(self, kind: str, **fields: Any) -> ResponseEvent:
        """The next event."""
        event = ResponseEvent(type=f"response.{kind}", sequence_number=self._events, **fields)
        self._events += 1
        return event

    def push(self, parts: list[Part], logprobs: list[OutputLogprob]) -> list[ResponseEvent]:
        """The events that tell of these parts; log probabilities go with the text that they come with."""
        events: list[ResponseEvent] = []
        for part in parts:
            match part:
                case Content(text):
                    events += self._say(text, logprobs)
                    logprobs = []
                case Reasoning(text):
                    events += self._think(text)
                case CallBegun(_, call_id, name):
                    events += self.finish()
                    call = OutputCall(id=_new("fc"), call_id=call_id, status="in_progress", name=name, arguments="")
                    events += self._begin(call)
                case CallArguments(_, text):
                    events.append(self._delta("function_call_arguments.delta", text))
                case CallEnded():
                    events += self.finish()
        return events

    def finish(self, status: ItemStatus = "completed") -> list[ResponseEvent]:
        """Close the open item, if any."""
        item, text, index = self._open, "".join(self._text), len(self.items)
        if item is None:
            return []
        place: dict[str, Any] = {"item_id": item.id, "output_index": index}
        events: list[ResponseEvent] = []
        match item:
            case OutputMessage():
                said = OutputText(text=text, logprobs=self._logprobs)
                done = self.event("output_text.done", **place, content_index=0, text=text, logprobs=self._logprobs)
                events += [done, self.event("content_part.done", **place, content_index=0, part=said)]
                item = structs.replace(item, status=status, content=[said])
            case OutputReasoning():
                thought = ReasoningText(text=text)
                done = self.event("reasoning_text.done", **place, content_index=0, text=text)
                events += [done, self.event("content_part.done", **place, content_index=0, part=thought)]
                item = structs.replace(item, status=status, content=[thought])
            case OutputCall():
                events.append(self.event("function_call_arguments.done", **place, name=item.name, arguments=text))
                item = structs.replace(item, status=status, arguments=text)
        events.append(self.event("output_item.done", output_index=index, item=item))
        self.items.append(item)
        self._open = None
        return events

    def _say(self, text: str, logprobs: list[OutputLogprob]) -> list[ResponseEvent]:
        events: list[ResponseEvent] = []
        if not isinstance(self._open, OutputMessage):
            message = OutputMessage(id=_new("msg"), status="in_progress", content=[])
            events += [*self.finish(), *self._begin(message, OutputText(text=""))]
        self._logprobs += logprobs
        return [*events, self._delta("output_text.delta", text, content_index=0, logprobs=logprobs)]

    def _think(self, text: str) -> list[ResponseEvent]:
        events: list[ResponseEvent] = []
        if not isinstance(self._open, OutputReasoning):
            thoughts = OutputReasoning(id=_new("rs"), status="in_progress", content=[])
            events += [*self.finish(), *self._begin(thoughts, ReasoningText(text=""))]
        return [*events, self._delta("reasoning_text.delta", text, content_index=0)]

    def _begin(self, item: OutputItem, part: OutputText | ReasoningText | None = None) -> list[ResponseEvent]:
        self._open, self._text, self._logprobs = item, [], []
        index = len(self.items)
        events = [self.event("output_item.added", output_index=index, item=item)]
        if part is not None:
            added = self.event("content_part.added", item_id=item.id, output_index=index, content_index=0, part=part)
            events.append(added)
        return events

    def _delta(self, kind: str, text: str, **fields: Any) -> ResponseEvent:
        assert self._open is not None  # parts of an item come after its beginning
        self._text.append(text)
        return self.event(kind, item_id=self._open.id, output_index=len(self.items), delta=text, **fields)


def _new(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"
