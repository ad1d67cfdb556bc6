"""The parts of an answer as the blocks of a message, and the events that tell of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from penstock.models.message_parts import CallArguments, CallBegun, CallEnded, Content, Reasoning
from penstock.server.messages_api.objects import EventDelta, MessageEvent, TextBlock, ThinkingBlock, ToolUseBlock

if TYPE_CHECKING:
    from penstock.models.message_parts import Part
    from penstock.server.messages_api.objects import AnswerBlock

_EMPTY: dict[str, AnswerBlock] = {"text": TextBlock(""), "thinking": ThinkingBlock("")}


class BlockWriter:
    """Feed it each delta's parts, then `finish` it; `blocks` has what is complete."""

    def __init__(self) -> None:
        self.blocks: list[AnswerBlock] = []
        self._kind = ""  # of the open block
        self._text: list[str] = []
        self._call = CallBegun(0, "", "")

    def push(self, parts: list[Part]) -> list[MessageEvent]:
        """The events that tell of these parts."""
        events: list[MessageEvent] = []
        for part in parts:
            match part:
                case Content(text):
                    events += self._more("text", text, EventDelta(type="text_delta", text=text))
                case Reasoning(text):
                    events += self._more("thinking", text, EventDelta(type="thinking_delta", thinking=text))
                case CallBegun(_, call_id, name):
                    events += self.finish()
                    self._call = part
                    events.append(self._begin("tool_use", ToolUseBlock(call_id, name, {})))
                case CallArguments(_, text):
                    events += self._more("tool_use", text, EventDelta(type="input_json_delta", partial_json=text))
                case CallEnded():
                    events += self.finish()
        return events

    def finish(self) -> list[MessageEvent]:
        """Close the open block, if any."""
        if not self._kind:
            return []
        index, text = len(self.blocks), "".join(self._text)
        match self._kind:
            case "text":
                self.blocks.append(TextBlock(text))
            case "thinking":
                self.blocks.append(ThinkingBlock(text))
            case _:
                self.blocks.append(ToolUseBlock(self._call.id, self._call.name, _arguments(text)))
        self._kind = ""
        return [MessageEvent(type="content_block_stop", index=index)]

    def _more(self, kind: str, text: str, delta: EventDelta) -> list[MessageEvent]:
        events: list[MessageEvent] = []
        if self._kind != kind:
            events += [*self.finish(), self._begin(kind, _EMPTY[kind])]
        self._text.append(text)
        return [*events, MessageEvent(type="content_block_delta", index=len(self.blocks), delta=delta)]

    def _begin(self, kind: str, block: AnswerBlock) -> MessageEvent:
        self._kind, self._text = kind, []
        return MessageEvent(type="content_block_start", index=len(self.blocks), content_block=block)


def _arguments(text: str) -> dict[str, Any]:
    """A call that was cut short has no arguments that could be trusted."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}
