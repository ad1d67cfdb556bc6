"""Drafting stops where it doesn't pay and comes back where it does."""

from __future__ import annotations

import pytest

from penstock.engine.speculation.governor import MOST, Governor

ROW = 0.15


def after(outcomes: list[tuple[int, int]], row_cost: float = ROW) -> Governor:
    governor = Governor(row_cost)
    for drafted, accepted in outcomes:
        governor.learn(drafted, accepted)
    return governor


def test_it_begins_with_a_few_and_goes_to_the_most_when_all_are_right() -> None:
    assert 1 <= Governor(ROW).drafts(1) < MOST
    assert after([(3, 3), (5, 5), (7, 7), (7, 7)]).drafts(1) == MOST


def test_wrong_drafts_end_it_within_a_few_steps() -> None:
    governor, rows = Governor(ROW), 0
    while count := governor.drafts(1):
        rows += count
        governor.learn(count, 0)
    assert rows <= 8, "what it costs to find out that a text doesn't repeat itself"


def test_once_ended_one_draft_now_and_then_asks_again_and_a_quotation_brings_it_back() -> None:
    governor = after([(3, 0)] * 40)
    asked = [governor.drafts(1) for _ in range(60)]
    assert asked[:40] == [0] * 40
    assert max(asked) == 1
    drafts = []
    for _ in range(12):
        count = max(governor.drafts(1), 1)
        drafts.append(count)
        governor.learn(count, count)
    assert drafts[-1] == MOST


@pytest.mark.parametrize("accepted", [2, 5, 7])
def test_the_more_sequences_share_a_step_the_fewer_are_drafted(accepted: int) -> None:
    counts = [after([(7, accepted)] * 10).drafts(decoding) for decoding in (1, 4, 16, 64)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1] or accepted == 7


def test_where_rows_cost_next_to_nothing_more_are_drafted() -> None:
    outcomes = [(7, 2)] * 10
    assert after(outcomes, 0.02).drafts(1) > after(outcomes, 0.3).drafts(1)


def test_where_a_row_costs_as_much_as_a_token_nothing_is_ever_drafted() -> None:
    governor = Governor(1.0)
    assert {governor.drafts(4) for _ in range(200)} == {0}
