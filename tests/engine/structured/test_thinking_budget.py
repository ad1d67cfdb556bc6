"""A budget of thinking: counted in tokens, ended by the tag, never inside a character."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.engine.stopping import OutputStream
from penstock.engine.structured.thinking_budget import ThinkingBudget
from penstock.engine.types import SamplingParams, ThinkingLimit
from penstock.models.tokenizer import Tokenizer
from support.fake_engine import write_model

if TYPE_CHECKING:
    from collections.abc import Iterable

FREE = None


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(write_model(tmp_path_factory.mktemp("bytes")))


def limit(tokenizer: Tokenizer, tokens: int, *, begun: bool = True) -> ThinkingLimit:
    end = tuple(tokenizer.encode("</think>", add_special_tokens=False))
    return ThinkingLimit(tokens=tokens, begin="<think>", end="</think>", end_token_ids=end, begun=begun)


def only(mask: bytes | None) -> int | None:
    """The one token that a mask allows; None for all."""
    if mask is None:
        return FREE
    allowed = [bit for bit in range(8 * len(mask)) if mask[bit >> 3] >> (bit & 7) & 1]
    assert len(allowed) == 1
    return allowed[0]


def say(tokenizer: Tokenizer, budget: ThinkingBudget, wanted: Iterable[int]) -> bytes:
    """What comes out when the model wants these tokens and is now and then forced to others."""
    said = b""
    for token in wanted:
        forced = only(budget.mask)
        while forced is not FREE:
            said += tokenizer.token_bytes(forced)
            budget.push(forced)
            forced = only(budget.mask)
        said += tokenizer.token_bytes(token)
        budget.push(token)
    return said


@pytest.mark.parametrize(
    ("tokens", "begun", "text", "expected"),
    [
        (3, True, "abcdef", "abc</think>def"),
        (0, True, "abc", "</think>abc"),
        (3, False, "<think>abcdef", "<think>abc</think>def"),
        (0, False, "<think>ab", "<think></think>ab"),
        (3, False, "abcdef", "abcdef"),
        (10, True, "ab</think>" + "c" * 20, "ab</think>" + "c" * 20),
        (9, True, "ab</think?" + "c" * 20, "ab</think>?" + "c" * 20),
        (3, True, "abéd", "abé</think>d"),
        (3, True, "ab😀d", "ab😀</think>d"),
        (1, True, "</think>x" * 2, "</think>/think>x</think>x"),
    ],
)
def test_the_end_is_forced_when_the_budget_is_spent(
    tokenizer: Tokenizer, tokens: int, begun: bool, text: str, expected: str
) -> None:
    budget = ThinkingBudget(limit(tokenizer, tokens, begun=begun), tokenizer.pieces)
    wanted = tokenizer.encode(text, add_special_tokens=False)
    assert say(tokenizer, budget, wanted).decode() == expected


@given(text=st.text(alphabet="ab<>/think é😀\n", max_size=60), tokens=st.integers(0, 30))
@settings(max_examples=100, deadline=None)
def test_thinking_never_takes_more_than_its_budget_and_the_rest_of_a_character(
    tokenizer: Tokenizer, text: str, tokens: int
) -> None:
    budget = ThinkingBudget(limit(tokenizer, tokens), tokenizer.pieces)
    said = say(tokenizer, budget, tokenizer.encode(text + "z" * 5, add_special_tokens=False)).decode()
    thought = said.partition("</think>")[0]
    assert len(thought.encode()) <= tokens + 3
    if len(text) >= tokens + 4:
        assert "</think>" in said


def test_output_follows_the_budget(tokenizer: Tokenizer) -> None:
    params = SamplingParams(thinking=limit(tokenizer, 1), max_tokens=20)
    stream = OutputStream(tokenizer, params, [], [2], 20)
    assert stream.allowed is None
    [token] = tokenizer.encode("a", add_special_tokens=False)
    stream.push(token)
    assert only(stream.allowed) == params.thinking.end_token_ids[0] if params.thinking else False


def test_given_a_spent_budget_when_the_end_of_thinking_is_a_stop_token_then_min_tokens_doesnt_ban_it(
    tokenizer: Tokenizer,
) -> None:
    thinking = limit(tokenizer, 1)
    stops = thinking.end_token_ids
    stream = OutputStream(
        tokenizer, SamplingParams(thinking=thinking, stop_token_ids=stops, min_tokens=12), [], [2], 20
    )
    assert set(stops) < set(stream.banned_token_ids)
    stream.push(tokenizer.encode("a", add_special_tokens=False)[0])
    for token in stops:
        assert only(stream.allowed) == token
        assert token not in stream.banned_token_ids
        assert stream.push(token)[1] is None
    assert set(stops) < set(stream.banned_token_ids)


def test_control_tokens_that_are_shown_are_text_and_others_are_not(tokenizer: Tokenizer) -> None:
    begin, end = (tokenizer.encode(text, add_special_tokens=False)[0] for text in ("<|im_start|>", "<|im_end|>"))
    stream = OutputStream(tokenizer, SamplingParams(shown_token_ids=(begin,), max_tokens=9), [], [2], 9)
    assert [stream.push(token)[0] for token in (begin, end)] == ["<|im_start|>", ""]
