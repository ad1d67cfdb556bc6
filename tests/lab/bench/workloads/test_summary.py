"""What a workload would send, in figures."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.lab.bench.planned import Planned, Turn
from penstock.lab.bench.workloads.sharing import prefix_hit_ratio
from penstock.lab.bench.workloads.summary import Spread, summarize

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class _Listed:
    planned: list[Planned]
    name: str = "listed"
    seed: int = 0
    parameters: dict[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        return self.parameters

    def requests(self) -> Iterator[Planned]:
        return iter(self.planned)


def test_given_requests_then_their_lengths_and_times_are_summed_up() -> None:
    planned = [Planned("a b c", n, due=float(at), prompt_tokens=10 * n) for n, at in ((1, 0), (2, 1), (3, 4))]
    summary = summarize(_Listed(planned), 1000)
    assert summary.spreads["input tokens"] == Spread(3, 20, 20, 30, 30, 30)
    assert summary.spreads["output tokens"] == Spread(3, 2, 2, 3, 3, 3)
    assert summary.rate == pytest.approx(0.5)  # two intervals in four seconds
    assert summary.burstiness == pytest.approx(1 / 4)
    assert json.loads(json.dumps(summary.as_dict()))["requests"] == 3
    assert summarize(_Listed(planned), 2).requests == 2


def test_given_unknown_token_counts_then_words_are_counted_and_called_so() -> None:
    assert summarize(_Listed([Planned("a b c", 1)]), 5).spreads["input words"].mean == 3


def test_given_conversations_then_later_turns_find_all_that_was_said_before() -> None:
    turns = (Turn("x " * 16, 16, think=3.0),)
    planned = Planned([{"role": "user", "content": "y " * 16}], 32, turns=turns)
    summary = summarize(_Listed([planned]), 5)
    assert summary.spreads["turns"].max == 2
    assert summary.spreads["thinking s"].mean == 3
    # of 16 tokens none; of 16 + 32 said before and 16 new ones, the 48
    assert summary.prefix_hits == pytest.approx(48 / (16 + 64))


@given(st.lists(st.lists(st.integers(0, 1), max_size=12), max_size=12), st.integers(1, 4))
def test_given_any_prompts_then_hits_are_the_longest_beginnings_in_whole_blocks(
    prompts: list[list[int]], block: int
) -> None:
    found = 0
    for place, prompt in enumerate(prompts):
        shared = 0
        for other in prompts[:place]:
            same = next((n for n, (a, b) in enumerate(zip(prompt, other, strict=False)) if a != b), None)
            same = min(len(prompt), len(other)) if same is None else same
            shared = max(shared, same // block * block)
        found += shared
    total = sum(map(len, prompts))
    ratio = prefix_hit_ratio([Planned(prompt, 1) for prompt in prompts], block)
    assert ratio == pytest.approx(found / total if total else 0)
