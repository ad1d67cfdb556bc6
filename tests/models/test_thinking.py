"""Thinking told from the answer, and its tokens counted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.models.message_parts import Content, Part, Reasoning
from penstock.models.message_reader import MessageReader
from penstock.models.thinking import (
    KNOWN_TAGS,
    ThinkingParser,
    ThinkingTags,
    ThinkingTracker,
    overlap,
    thinking_tags,
)
from penstock.models.token_pieces import TokenPieces
from penstock.models.tool_formats.generic import GENERIC
from penstock.models.tool_formats.parser import ToolCallParser

TAGS = KNOWN_TAGS[0]
PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<thi", "nk>", "</", "\n", "\n\n", " ", "a", "é", "<"]), max_size=14
)


def read(pieces: list[str], *, begun: bool, tags: ThinkingTags = TAGS) -> tuple[str, str]:
    """What was thought, and what was said."""
    parser = ThinkingParser(tags, begun=begun)
    parts: list[Part] = [part for piece in pieces for part in parser.push(piece)] + parser.finish()
    thought = "".join(part.text for part in parts if isinstance(part, Reasoning))
    said = "".join(part.text for part in parts if isinstance(part, Content))
    assert parts == sorted(parts, key=lambda part: isinstance(part, Content))  # thinking comes first
    return thought, said


def tokens_of_thinking(tokens: list[bytes], *, begun: bool) -> int:
    tracker = ThinkingTracker(TAGS, begun=begun)
    for token in tokens:
        tracker.push(token)
    return tracker.tokens


@pytest.mark.parametrize(
    ("text", "begun", "expected"),
    [
        ("<think>\nhm\n</think>\n\nYes.", False, ("hm", "Yes.")),
        ("\n<think>hm</think>Yes.\n", False, ("hm", "Yes.\n")),
        ("hm\n\nhm\n</think>\n\nYes.", True, ("hm\n\nhm", "Yes.")),
        ("<think>\n\n</think>\n\nYes.", False, ("", "Yes.")),
        ("Yes <think>no</think>", False, ("", "Yes <think>no</think>")),
        ("hm</think>a</think>b", True, ("hm", "a</think>b")),
        ("<think>hm", False, ("hm", "")),
        ("hm\n</thi", True, ("hm\n</thi", "")),
        ("hm\n", True, ("hm", "")),
        ("<thi", False, ("", "<thi")),
        (" \n", False, ("", " \n")),
    ],
)
def test_thinking_is_told_from_the_answer(text: str, begun: bool, expected: tuple[str, str]) -> None:
    assert read([text], begun=begun) == expected
    assert read(list(text), begun=begun) == expected


@given(pieces=PIECES, begun=st.booleans(), places=st.lists(st.integers(0, 60), max_size=8))
@settings(max_examples=300, deadline=None)
def test_however_text_is_cut_the_parts_are_the_same(pieces: list[str], begun: bool, places: list[int]) -> None:
    text = "".join(pieces)
    ends = sorted({place % (len(text) + 1) for place in places})
    cut = [text[begin:end] for begin, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    assert read(cut, begun=begun) == read([text], begun=begun) == read(list(text), begun=begun)


@given(thought=st.text(max_size=30), said=st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_thinking_and_answer_come_back_as_a_template_writes_them(thought: str, said: str) -> None:
    thought, said = thought.strip("\n").replace("</think>", ""), said.lstrip("\n")
    assert read(list(f"<think>\n{thought}\n</think>\n\n{said}"), begun=False) == (thought, said)


@pytest.mark.parametrize(
    ("tokens", "begun", "count"),
    [
        ([b"<think>", b"\n", b"hm", b"\n", b"</think>", b"\n\n", b"Yes"], False, 3),
        ([b"hm", b"</think>", b"Yes"], True, 1),
        ([b"hm", b"</", b"th", b"ink", b">", b"Yes"], True, 1),
        ([b"hm</", b"think>", b"Yes"], True, 1),  # the token that the tag begins in has some thinking in it
        ([b"\n", b"<th", b"ink>a", b"b", b"</think>"], False, 2),
        ([b"Yes", b"<think>", b"a", b"</think>"], False, 0),
        ([b"a", b"b"], True, 2),
        ([], True, 0),
        ([b"<think>", b"", b"\xc3", b"\xa9", b"</think>"], False, 3),
    ],
)
def test_tokens_of_thinking_are_counted_without_the_tags(tokens: list[bytes], begun: bool, count: int) -> None:
    assert tokens_of_thinking(tokens, begun=begun) == count


@given(thought=st.text(alphabet="ab<\n/é", max_size=20), said=st.text(max_size=9), sizes=st.lists(st.integers(1, 5)))
@settings(max_examples=200, deadline=None)
def test_thinking_of_single_bytes_counts_its_bytes(thought: str, said: str, sizes: list[int]) -> None:
    text = f"{thought}</think>{said}".encode()
    assert tokens_of_thinking([text[at : at + 1] for at in range(len(text))], begun=True) == len(thought.encode())
    pieces, at = [], 0
    while at < len(text):
        size = sizes.pop() if sizes else 3
        pieces.append(text[at : at + size])
        at += size
    begun_inside = 0
    for index in range(len(pieces)):
        begun_inside += len(b"".join(pieces[:index])) < len(thought.encode())
    assert tokens_of_thinking(pieces, begun=True) == begun_inside


@pytest.mark.parametrize(
    ("source", "tags"),
    [("{{ x }}", None), ("a </think> b", KNOWN_TAGS[0]), ("[THINK]x[/THINK]", KNOWN_TAGS[1])],
)
def test_tags_are_those_the_template_knows(source: str, tags: ThinkingTags | None) -> None:
    assert thinking_tags(source) == tags


def test_overlap_is_the_longest_end_that_may_go_on() -> None:
    assert [overlap(text, "abab") for text in ("x", "xa", "xaba", "", "xb")] == [0, 1, 3, 0, 0]


def test_a_call_that_is_only_thought_of_is_no_call() -> None:
    reader = MessageReader(
        TokenPieces(lambda _: None, byte_level=True),
        thinking=ThinkingParser(TAGS, begun=False),
        tracker=ThinkingTracker(TAGS, begun=False),
        tools=ToolCallParser(GENERIC, ["f"]),
    )
    call = GENERIC.write([("f", "{}")])
    parts = [part for character in f"<think>\nmaybe {call}?</think>\n{call}" for part in reader.push(character)]
    parts += reader.finish()
    assert "".join(part.text for part in parts if isinstance(part, Reasoning)) == f"maybe {call}?"
    assert reader.calls == 1
