"""Drafts are what followed the last three tokens the last time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.engine.sequence import Sequence
from penstock.engine.speculation.ngram import NgramIndex
from penstock.engine.types import Request, SamplingParams


def sequence_of(prompt: list[int]) -> Sequence:
    return Sequence(Request(request_id="a", prompt_token_ids=prompt, params=SamplingParams()))


def looked_up(tokens: list[int], count: int) -> list[int]:
    """What the index promises, by search."""
    for end in range(len(tokens) - 1, 2, -1):
        if tokens[end - 3 : end] == tokens[-3:]:
            copied = list(tokens)
            for at in range(end, end + count):  # may run into what it has just written
                copied.append(copied[at])
            return copied[len(tokens) :]
    return []


# Ids of one, two and four bytes, of a surrogate, and the greatest.
_TOKENS = st.sampled_from([[0, 1, 2], [0, 255, 256], [7, 0xD800, 0xFFFF], [1, 0x1_0000, 0x10_FFFF]]).flatmap(
    lambda ids: st.tuples(*[st.lists(st.sampled_from(ids), min_size=least, max_size=60) for least in (1, 0)])
)


@given(_TOKENS, st.data())
def test_drafts_are_those_of_a_search_however_the_sequence_grew(
    tokens: tuple[list[int], list[int]], data: st.DataObject
) -> None:
    prompt, outputs = tokens
    sequence = sequence_of(prompt)
    index = NgramIndex(sequence)
    for token in outputs:
        sequence.append(token)
        if data.draw(st.booleans()):
            count = data.draw(st.integers(1, 8))
            known = [*prompt, *sequence.output_token_ids]
            assert index.draft(count) == (looked_up(known, count) if len(known) > 3 else [])


def test_a_quotation_is_followed_from_its_third_token_on() -> None:
    index = NgramIndex(sequence := sequence_of([1, 2, 3, 4, 5, 6, 9, 1, 2]))
    assert index.draft(4) == []
    sequence.append(3)
    assert index.draft(2) == [4, 5]
    assert index.draft(9) == [4, 5, 6, 9, 1, 2, 3, 4, 5]
