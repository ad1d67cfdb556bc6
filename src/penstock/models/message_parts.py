"""What an answer is made of, as it comes: pieces of reasoning, of content, of tool calls.

The one intermediate form between a model's text and every API that answers with more than text.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of what the model thought before its answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """More of the answer itself."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A tool call begins. Calls count from 0; at most one is open, the last begun."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the JSON text of a call's arguments."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call's arguments are complete. One that was cut short never gets here."""

    index: int


Part = Reasoning | Content | CallBegun | CallArguments | CallEnded


@dataclass(slots=True)
class WholeCall:
    """One call of a whole answer; `arguments` is JSON, or the beginning of it where the answer was cut."""

    id: str
    name: str
    arguments: str = ""
    complete: bool = False


class WholeMessage:
    """Parts put together.

    >>> message = WholeMessage()
    >>> message.add([Content("Hel"), Content("lo")])
    >>> message.content
    'Hello'
    """

    def __init__(self) -> None:
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self.calls: list[WholeCall] = []

    def add(self, parts: list[Part]) -> None:
        """Take in what came next."""
        for part in parts:
            match part:
                case Reasoning(text):
                    self._reasoning.append(text)
                case Content(text):
                    self._content.append(text)
                case CallBegun(_, call_id, name):
                    self.calls.append(WholeCall(call_id, name))
                case CallArguments(index, text):
                    self.calls[index].arguments += text
                case CallEnded(index):
                    self.calls[index].complete = True

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def content(self) -> str:
        return "".join(self._content)
