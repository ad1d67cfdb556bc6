"""The compiled readers of vocabularies against what they mean, said plainly in Python."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock._native import NativeError, end_of_strings, merges_by_score, read_strings

TEXTS = st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=6), max_size=8)


def stored(strings: list[bytes]) -> bytes:
    return b"".join(struct.pack("<Q", len(string)) + string for string in strings)


def merges(tokens: list[str], scores: list[float], made: list[bool]) -> list[tuple[str, str]]:
    found = [
        (-scores[place], -cut, cut - len(token), token[:cut], token[cut:])
        for place, token in enumerate(tokens)
        if made[place]
        for cut in range(1, len(token))
        if token[:cut] in tokens and token[cut:] in tokens
    ]
    return [(left, right) for *_, left, right in sorted(found, key=lambda merge: merge[:3])]


@given(texts=TEXTS, before=st.binary(max_size=9), after=st.binary(max_size=9))
def test_given_strings_when_read_then_they_and_their_end_are_as_written(
    texts: list[str], before: bytes, after: bytes
) -> None:
    array = stored([text.encode() for text in texts])
    assert read_strings(memoryview(array + after), len(texts)) == texts
    end = end_of_strings(memoryview(before + array + after), len(before), len(texts))
    assert end == len(before) + len(array)


@given(texts=TEXTS.filter(bool), data=st.data())
def test_given_strings_that_are_cut_short_when_stepped_over_then_there_is_no_end(
    texts: list[str], data: st.DataObject
) -> None:
    array = stored([text.encode() for text in texts])
    cut = data.draw(st.integers(0, len(array) - 1))
    assert end_of_strings(memoryview(array[:cut]), 0, len(texts)) is None


@pytest.mark.parametrize("length", [1 << 62, (1 << 64) - 1, (1 << 64) - 8])
def test_given_a_length_that_overflows_when_stepped_over_then_there_is_no_end(length: int) -> None:
    data = stored([b"a"]) + struct.pack("<Q", length) + b"rest"
    assert end_of_strings(memoryview(data), 0, 2) is None
    assert end_of_strings(memoryview(data), len(data) + 1, 1) is None
    assert read_strings(memoryview(data), 2) == ["a"]


def test_given_bytes_that_are_no_text_when_read_then_the_strings_before_them_come() -> None:
    assert read_strings(memoryview(stored([b"a", "é".encode(), b"\xff", b"b"])), 4) == ["a", "é"]


@given(
    tokens=st.lists(st.text("ab▁é😀", min_size=1, max_size=5), unique=True, max_size=40),
    data=st.data(),
)
def test_given_tokens_when_merges_are_found_then_they_are_all_and_in_order(
    tokens: list[str], data: st.DataObject
) -> None:
    several = len(tokens)
    scores = data.draw(st.lists(st.sampled_from([0.0, -0.0, -1.0, -2.5, 3.0]), min_size=several, max_size=several))
    made = data.draw(st.lists(st.booleans(), min_size=several, max_size=several))
    assert merges_by_score(tokens, scores, made) == merges(tokens, scores, made)


def test_given_too_few_scores_when_merges_are_found_then_is_refused() -> None:
    with pytest.raises(NativeError, match="a score"):
        merges_by_score(["a", "b"], [1.0], [True, True])
