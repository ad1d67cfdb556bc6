"""Token counts that can be believed, and what is said of those that can't."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from penstock.lab.bench.counts import Counts, count
from support.observed import observed

if TYPE_CHECKING:
    from penstock.lab.bench.observations import Observations


class Words:
    """A tokenizer whose tokens are words."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [1] * add_special_tokens + [2] * len(text.split())


def answers(texts: dict[int, str], **columns: Any) -> Observations:
    seen = observed(gaps=[[0.1, 0.1]] * 4, **columns)
    seen.texts.update(texts)
    return seen


TEXTS = {0: "a b c d", 1: "a b c d", 2: "a b c d", 3: "a b c d"}


def test_usage_that_agrees_with_the_tokenizer_raises_no_doubt() -> None:
    found = count([answers(TEXTS, completion_tokens=[4] * 4, wanted_output=[4] * 4)], Words())
    assert (found.checked, found.ratio, found.differing, found.doubts()) == (4, 1.0, 0, [])
    assert found.tokens_per_piece == 2


def test_the_token_that_ends_an_answer_has_no_text_and_is_no_difference() -> None:
    stop = answers(TEXTS, completion_tokens=[5] * 4, wanted_output=[5] * 4, finish=[1] * 4)
    length = answers(TEXTS, completion_tokens=[5] * 4, wanted_output=[5] * 4)
    assert count([stop], Words()).ratio == 1.0
    assert count([length], Words()).ratio == 1.25


@pytest.mark.parametrize(
    ("columns", "doubt"),
    [
        ({"completion_tokens": [8] * 4, "wanted_output": [8] * 4}, "2.000 times what the tokenizer finds"),
        ({"completion_tokens": [-1, -1, 4, 4], "wanted_output": [4] * 4}, "no token counts of 2 of 4"),
        ({"completion_tokens": [4] * 4, "wanted_output": [9, 9, 4, 4]}, "2 of 4 answers are shorter"),
        ({"completion_tokens": [4] * 4, "wanted_output": [4] * 4, "wanted_prompt": [11, 10, 9, -1]},
         "counts 1 prompts shorter"),
    ],
)  # fmt: skip
def test_counts_that_cannot_be_right_are_named(columns: dict[str, Any], doubt: str) -> None:
    assert any(doubt in said for said in count([answers(TEXTS, **columns)], Words()).doubts())


def test_only_whole_answers_outside_the_warm_up_are_compared() -> None:
    seen = answers(TEXTS, completion_tokens=[4, 400, 400, 4], wanted_output=[4] * 4, ending=[0, 5, 0, 0],
                   warm_up=[False, False, True, False])  # fmt: skip
    found = count([seen], Words())
    assert (found.answers, found.checked, found.ratio) == (2, 2, 1.0)


def test_answers_whose_text_was_not_kept_are_not_checked() -> None:
    found = count([answers({1: "a b c d"}, completion_tokens=[4] * 4)], Words())
    assert (found.answers, found.checked) == (4, 1)


def test_a_run_without_answers_has_counts_of_nothing() -> None:
    nothing = count([observed(gaps=[])], Words())
    assert nothing == Counts(0, 0, 0, 0, 0, 0, 0, None)
    assert (nothing.tokens_per_piece, nothing.ratio, nothing.doubts()) == (None, None, [])
