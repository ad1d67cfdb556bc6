"""Reads tool calls back from a model's text as it comes."""

from __future__ import annotations

import secrets
import string
from typing import TYPE_CHECKING

from penstock.models.message_parts import CallArguments, CallBegun, CallEnded, Content
from penstock.models.stateful_reader import StatefulReader
from penstock.models.thinking import overlap

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.models.message_parts import Part
    from penstock.models.tool_formats.base import ToolFormat

_ALPHABET = string.ascii_letters + string.digits


def new_call_id(characters: int | None) -> str:
    """A fresh id for a call: of that many letters and digits, or in OpenAI's manner."""
    if characters is None:
        return "call_" + secrets.token_hex(12)
    return "".join(secrets.choice(_ALPHABET) for _ in range(characters))


class ToolCallParser(StatefulReader):
    """Splits text into content and calls; however the text is cut into pushes, the parts join to the same.

    Text is held back only while it may yet turn out to be markup. What looked like a call and names none of the
    functions is content. Space between content and a call that follows is nobody's and dropped.

    Args:
        spelling: how the model's family writes calls.
        names: the functions that may be called.
    """

    def __init__(self, spelling: ToolFormat, names: Iterable[str]) -> None:
        super().__init__(self._text if spelling.anywhere else self._opening)
        self._format = spelling
        heads = {spelling.head(name): name for name in names}
        self._openings = {spelling.begin + head: name for head, name in heads.items()}
        self._followers = {spelling.call_close + spelling.between + head: name for head, name in heads.items()}
        self._json = _ObjectScanner()
        self.calls = 0

    def finish(self) -> list[Part]:
        """What was held back, now that no more text will come: markup that ended half-way is content, unless a call
        that has ended is before it."""
        held, self._held = self._held, ""
        return [Content(held)] if held and self._state != self._after else []

    def _text(self, parts: list[Part]) -> bool:
        held, trigger = self._held, self._format.trigger
        at = held.find(trigger)
        if at >= 0:
            self._say(held[:at].rstrip(), parts)
            self._held = held[len(held[:at].rstrip()) :]
            self._state = self._opening
            return True
        shown = held[: len(held) - overlap(held, trigger)].rstrip()
        self._say(shown, parts)
        self._held = held[len(shown) :]
        return False

    def _opening(self, parts: list[Part]) -> bool:
        held = self._held
        space = len(held) - len(held.lstrip()) if self._format.anywhere else 0
        if self._call(held[space:], self._openings, parts):
            return True
        if any(opening.startswith(held[space:]) for opening in self._openings):
            return False
        if not self._format.anywhere:
            self._state = self._plain
            return True
        beyond = space + len(self._format.trigger)
        self._say(held[:beyond], parts)
        self._held = held[beyond:]
        self._state = self._text
        return True

    def _plain(self, parts: list[Part]) -> bool:
        self._say(self._held, parts)
        self._held = ""
        return False

    def _arguments(self, parts: list[Part]) -> bool:
        end = self._json.push(self._held)
        if end is None:
            parts.append(CallArguments(self.calls - 1, self._held))
            self._held = ""
            return False
        parts += [CallArguments(self.calls - 1, self._held[:end]), CallEnded(self.calls - 1)]
        self._held = self._held[end:]
        self._state = self._after
        return True

    def _after(self, parts: list[Part]) -> bool:
        held = self._held
        if self._call(held, self._followers, parts):
            return True
        last = self._format.call_close + self._format.end
        if last.startswith(held) or any(follower.startswith(held) for follower in self._followers):
            return False
        beyond = next((len(known) for known in (last, self._format.call_close) if held.startswith(known)), 0)
        self._held = held[beyond:]
        self._state = self._text if self._format.anywhere else self._plain
        return True

    def _call(self, held: str, heads: dict[str, str], parts: list[Part]) -> bool:
        """Begin a call if what is held begins with one's head."""
        head = next((head for head in heads if held.startswith(head)), None)
        if head is None:
            return False
        parts.append(CallBegun(self.calls, new_call_id(self._format.id_characters), heads[head]))
        self.calls += 1
        self._held = held[len(head) :]
        self._json = _ObjectScanner()
        self._state = self._arguments
        return True

    def _say(self, text: str, parts: list[Part]) -> None:
        if text:
            parts.append(Content(text))


class _ObjectScanner:
    """Finds where a JSON object ends, in text that comes bit by bit."""

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = False
        self._escaped = False

    def push(self, text: str) -> int | None:
        """Where in `text` the object has ended, None if it goes on."""
        for at, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped = character == "\\"
                self._quoted = character != '"'
            elif character == '"':
                self._quoted = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return at + 1
        return None
