"""Deltas that wait for a slow reader."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from penstock.engine.mailbox import Mailbox
from penstock.engine.types import PositionLogprobs, RequestOutput, TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Sequence


def delta(text: str, token_ids: Sequence[int], *, scored: bool = False, **rest: Any) -> RequestOutput:
    logprobs = [PositionLogprobs(TokenLogprob(token, -1.0, 1), []) for token in token_ids] if scored else None
    return RequestOutput(request_id="r", text=text, token_ids=[*token_ids], logprobs=logprobs, **rest)


class NeverCopied(list[int]):
    """A list that may grow, but not be written anew with something behind it."""

    def __add__(self, other: object) -> NeverCopied:  # type: ignore[override]
        raise AssertionError("what waits was copied for one more delta")


PIECES = st.lists(st.tuples(st.text(max_size=4), st.lists(st.integers(0, 99), max_size=3)), min_size=1, max_size=12)


@given(PIECES, st.sets(st.integers(0, 11)), st.booleans())
def test_given_reads_at_any_time_then_what_is_read_joins_to_what_was_put(
    pieces: list[tuple[str, list[int]]], reads: set[int], scored: bool
) -> None:
    box = Mailbox(0, asyncio.Event())
    found = []
    for at, (text, token_ids) in enumerate(pieces):
        box.put(delta(text, token_ids, scored=scored))
        if at in reads:
            found.append(box.take())
    found.append(box.take())
    read = [each for each in found if each is not None]
    assert "".join(each.text for each in read) == "".join(text for text, _ in pieces)
    tokens = [token for _, token_ids in pieces for token in token_ids]
    assert [token for each in read for token in each.token_ids] == tokens
    if scored:
        assert [score.chosen.token_id for each in read for score in each.logprobs or ()] == tokens
    assert box.take() is None


def test_the_first_delta_says_what_comes_once_and_the_last_how_it_ended() -> None:
    box = Mailbox(0, asyncio.Event())
    box.put(delta("a", [1], prompt_logprobs=[None], cached_tokens=16, scheduled_time=2.5))
    box.put(delta("b", [2]))
    box.put(delta("", [3], finish_reason="stop", stop_reason=3))
    whole = box.take()
    assert whole is not None
    assert (whole.text, whole.token_ids) == ("ab", [1, 2, 3])
    assert (whole.prompt_logprobs, whole.cached_tokens, whole.scheduled_time) == ([None], 16, 2.5)
    assert (whole.finish_reason, whole.stop_reason) == ("stop", 3)


def test_given_a_reader_who_sleeps_then_a_delta_costs_no_copy_of_those_before_it() -> None:
    box = Mailbox(0, asyncio.Event())
    first = delta("a", [1])
    first.token_ids = NeverCopied([1])
    box.put(first)
    for token in range(2, 100):
        box.put(delta("a", [token]))
    whole = box.take()
    assert whole is not None
    assert whole.token_ids == [*range(1, 100)]
    assert whole.text == "a" * 99
