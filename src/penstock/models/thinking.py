"""Reasoning models: where in an answer the thinking ends and the answer proper begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import AnyStr

from penstock.models.message_parts import Content, Part, Reasoning
from penstock.models.stateful_reader import StatefulReader


@dataclass(frozen=True, slots=True)
class ThinkingTags:
    """What a model writes around its thinking."""

    begin: str
    end: str

    def left_open(self, text: str) -> bool:
        """Whether the thinking that this text begins is still going on at its end."""
        return text.rfind(self.begin) > text.rfind(self.end)


KNOWN_TAGS = (ThinkingTags("<think>", "</think>"), ThinkingTags("[THINK]", "[/THINK]"))


def thinking_tags(template_source: str) -> ThinkingTags | None:
    """The tags that a chat template knows of, None for a model that doesn't think."""
    return next((tags for tags in KNOWN_TAGS if tags.end in template_source), None)


def overlap(text: AnyStr, marker: AnyStr) -> int:
    """How much at the end of `text` may be the beginning of `marker`, which isn't in it whole."""
    sizes = range(min(len(marker) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(marker[:size])), 0)


class ThinkingTracker:
    """Counts the tokens of an answer's thinking, tags left out, from each token's bytes.

    Args:
        tags: the model's.
        begun: the prompt has opened the thinking already.
    """

    def __init__(self, tags: ThinkingTags, *, begun: bool) -> None:
        self._begin, self._end = tags.begin.encode(), tags.end.encode()
        self._seen = b""  # as much as may hold part of the tag that is waited for
        self._recent: list[int] = []  # bytes of each token of what was seen
        self._before = not begun
        self.open = begun
        self.tokens = 0

    @property
    def over(self) -> bool:
        """There is no thinking to come."""
        return not self.open and not self._before

    @property
    def closing(self) -> int:
        """Bytes at the end of the thinking so far that may be the beginning of its end."""
        return overlap(self._seen, self._end) if self.open else 0

    def push(self, data: bytes) -> None:
        """A token of these bytes was generated."""
        if self._before:
            self._look_for_begin(data)
        elif self.open:
            self._look_for_end(data)

    def _look_for_begin(self, data: bytes) -> None:
        self._seen = (self._seen + data).lstrip()
        if self._seen.startswith(self._begin):
            self._before, self.open = False, True
            rest, self._seen = self._seen[len(self._begin) :], b""
            if rest:
                self._look_for_end(rest)
        elif not self._begin.startswith(self._seen):
            self._before = False

    def _look_for_end(self, data: bytes) -> None:
        self._seen += data
        self._recent.append(len(data))
        self.tokens += 1
        at = self._seen.find(self._end)
        if at < 0:
            while len(self._seen) - self._recent[0] >= len(self._end):
                self._seen = self._seen[self._recent.pop(0) :]
            return
        self.open = False
        while self._recent and len(self._seen) - self._recent[-1] >= at:
            self._seen = self._seen[: len(self._seen) - self._recent.pop()]
            self.tokens -= 1


class ThinkingParser(StatefulReader):
    """Tells thinking from the answer; however the text is cut into pushes, the parts join to the same.

    Line ends around the thinking belong to the tags. Thinking counts only at an answer's beginning: the same tag
    later is content.

    Args:
        tags: the model's.
        begun: the prompt has opened the thinking already.
    """

    def __init__(self, tags: ThinkingTags, *, begun: bool) -> None:
        super().__init__(self._thinking if begun else self._before)
        self._tags = tags
        self._lead = True  # nothing but line ends since the tag
        self.thinking = begun

    @property
    def done(self) -> bool:
        """What comes from here on is content, all of it."""
        return self._state == self._content and not self._lead

    def finish(self) -> list[Part]:
        """What was held back, now that no more text will come."""
        held, self._held = self._held, ""
        if self._state == self._thinking:
            return [Reasoning(text)] if (text := held.rstrip("\n")) else []
        return [Content(held)] if held and self._state == self._before else []

    def _before(self, _parts: list[Part]) -> bool:
        text = self._held.lstrip()
        if text.startswith(self._tags.begin):
            self._held = text[len(self._tags.begin) :]
            self._state = self._thinking
            self.thinking = True
            return True
        if self._tags.begin.startswith(text):
            return False
        self._state = self._content
        self._lead = False
        return True

    def _thinking(self, parts: list[Part]) -> bool:
        if self._lead:
            self._held = self._held.lstrip("\n")
            self._lead = not self._held
        held, end = self._held, self._tags.end
        at = held.find(end)
        ended = at >= 0
        if not ended:
            at = len(held) - overlap(held, end)
        shown = held[:at].rstrip("\n")
        if shown:
            parts.append(Reasoning(shown))
        if not ended:
            self._held = held[len(shown) :]
            return False
        self._held = held[at + len(end) :]
        self._state = self._content
        self.thinking = False
        self._lead = True
        return True

    def _content(self, parts: list[Part]) -> bool:
        text = self._held.lstrip("\n") if self._lead else self._held
        if text:
            parts.append(Content(text))
            self._lead = False
        self._held = ""
        return False
