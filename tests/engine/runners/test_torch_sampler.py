"""The torch runner's sampler: what each parameter means, and that draws follow the distribution they claim."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.engine.runners.randomness import uniform
from penstock.engine.runners.torch.sampler import sample
from penstock.engine.types import SampleSpec, SamplingParams

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

VOCAB = 300


def logits(rows: int = 1, vocab: int = VOCAB, seed: int = 0, scale: float = 2.0) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def spec(
    seed: int = 0,
    *,
    prompt: Sequence[int] = (),
    output: Sequence[int] = (),
    banned: Sequence[int] = (),
    **params: object,
) -> SampleSpec:
    return SampleSpec(SamplingParams(**params), seed, prompt, output, banned)  # type: ignore[arg-type]


def draw(row: Tensor, count: int, **params: object) -> list[int]:
    """`count` tokens of as many requests with different seeds, all in one batch."""
    outputs = sample(row.expand(count, -1).clone(), [spec(seed, **params) for seed in range(count)])
    assert all(o.error is None for o in outputs)
    return [o.token_id for o in outputs if o.token_id is not None]


def allowed(row: Tensor, count: int = 3000, **params: object) -> set[int]:
    return set(draw(row, count, **params))


def chi_square_is_plausible(tokens: list[int], probabilities: Tensor) -> bool:
    """Pearson's test; tokens expected fewer than 10 times are counted together. True below the 99.9 % point."""
    expected = probabilities.double().numpy() * len(tokens)
    observed = np.bincount(tokens, minlength=len(expected)).astype(float)
    rare = expected < 10
    expected = np.append(expected[~rare], expected[rare].sum())
    observed = np.append(observed[~rare], observed[rare].sum())
    if expected[-1] == 0:
        assert observed[-1] == 0
        expected, observed = expected[:-1], observed[:-1]
    degrees = len(expected) - 1
    statistic = float(((observed - expected) ** 2 / expected).sum())
    # Wilson and Hilferty: the cube root of chi-square over its degrees of freedom is nearly normal
    z = ((statistic / degrees) ** (1 / 3) - (1 - 2 / (9 * degrees))) / math.sqrt(2 / (9 * degrees))
    return z < 3.09


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_draws_follow_the_softmax_of_the_scaled_logits(temperature: float) -> None:
    row = logits()
    tokens = draw(row, 20_000, temperature=temperature)
    assert chi_square_is_plausible(tokens, torch.softmax(row[0] / temperature, -1))


def test_the_chi_square_test_rejects_a_wrong_temperature() -> None:
    row = logits()
    tokens = draw(row, 20_000, temperature=1.1)
    assert not chi_square_is_plausible(tokens, torch.softmax(row[0], -1))


@pytest.mark.parametrize("params", [{"top_k": 7}, {"top_p": 0.6}, {"min_p": 0.02}, {"top_k": 20, "top_p": 0.8}])
def test_filtered_draws_follow_the_renormalized_distribution(params: dict[str, float]) -> None:
    row = logits()
    probabilities = torch.softmax(row[0], -1)
    keep = sorted(allowed(row, **params))
    left = torch.zeros(VOCAB)
    left[keep] = probabilities[keep]
    assert chi_square_is_plausible(draw(row, 20_000, **params), left / left.sum())


def test_successive_positions_of_one_seed_follow_the_distribution_too() -> None:
    row = logits(vocab=8, scale=1.0)
    steps = [spec(42, output=[0] * n) for n in range(5000)]
    tokens = [o.token_id for o in sample(row.expand(5000, -1).clone(), steps) if o.token_id is not None]
    assert chi_square_is_plausible(tokens, torch.softmax(row[0], -1))


def test_uniform_numbers_are_even_and_unrelated_for_neighbouring_seeds_and_positions() -> None:
    grid = np.array([[uniform(seed, position) for position in range(300)] for seed in range(300)])
    assert ((grid >= 0) & (grid < 1)).all()
    counts = np.bincount((grid.ravel() * 64).astype(int), minlength=64)
    expected = grid.size / 64
    assert ((counts - expected) ** 2 / expected).sum() < 63 + 4 * math.sqrt(126)
    for left, right in ((grid[:-1], grid[1:]), (grid[:, :-1], grid[:, 1:]), (grid[:-1, 1:], grid[1:, :-1])):
        assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 4 / math.sqrt(left.size)


@given(st.integers(-(1 << 63), (1 << 64) - 1), st.integers(0, 1 << 20))
def test_any_64_bit_seed_gives_a_number_below_one(seed: int, position: int) -> None:
    assert 0 <= uniform(seed, position) < 1


def test_zero_temperature_takes_the_highest_score() -> None:
    rows = logits(5)
    assert [o.token_id for o in sample(rows.clone(), [spec(temperature=0)] * 5)] == rows.argmax(-1).tolist()


def test_top_k_leaves_the_k_likeliest() -> None:
    row = logits()
    assert allowed(row, top_k=5, temperature=3.0) == set(row[0].topk(5).indices.tolist())


def test_top_k_of_one_and_a_tiny_top_p_are_greedy() -> None:
    row = logits()
    best = {int(row.argmax())}
    assert allowed(row, 50, top_k=1) == allowed(row, 50, top_p=1e-9) == best


def test_equal_scores_at_the_edge_of_top_k_all_stay() -> None:
    row = torch.full((1, 10), -5.0)
    row[0, [2, 5, 7]] = 3.0
    assert allowed(row, 500, top_k=2) == {2, 5, 7}


@pytest.mark.parametrize("vocab", [300, 5000])  # below and above what is sorted at first
def test_top_p_leaves_the_fewest_tokens_that_reach_the_mass(vocab: int) -> None:
    row = logits(vocab=vocab, scale=0.01 if vocab > 1024 else 2.0)
    probabilities, order = torch.softmax(row[0], -1).sort(descending=True)
    reach = int((probabilities.double().cumsum(0) < 0.4).sum()) + 1
    assert allowed(row, 40_000, top_p=0.4) <= set(order[:reach].tolist())
    assert vocab > 1024 or allowed(row, 40_000, top_p=0.4) == set(order[:reach].tolist())


def test_top_p_counts_mass_after_top_k() -> None:
    row = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    # of the first two alone, the first has 4/7 = 0.571 of the mass
    assert allowed(row, 200, top_k=2, top_p=0.57) == {0}
    assert allowed(row, 200, top_k=2, top_p=0.58) == {0, 1}


def test_min_p_is_relative_to_the_likeliest_after_temperature() -> None:
    row = torch.tensor([[0.5, 0.26, 0.14, 0.1]]).log()
    assert allowed(row, 300, min_p=0.5) == {0, 1}
    assert allowed(row, 300, min_p=0.5, temperature=2.0) == {0, 1, 2}  # sqrt(0.14 / 0.5) = 0.53


def test_rows_with_different_filters_do_not_disturb_each_other() -> None:
    row = logits(vocab=3000, scale=0.3)
    wishes: list[dict[str, float]] = [
        {}, {"top_k": 3}, {"top_p": 0.9}, {"top_p": 0.1}, {"min_p": 0.3}, {"temperature": 0},
        {"top_k": 2000, "top_p": 0.99},
    ]  # fmt: skip
    together = sample(row.expand(7, -1).clone(), [spec(9, **w) for w in wishes])
    alone = [sample(row.clone(), [spec(9, **w)])[0] for w in wishes]
    assert together == alone


def test_a_seed_draws_the_same_token_in_any_batch_and_another_at_the_next_position() -> None:
    rows = logits(6)
    specs = [spec(i, temperature=1.0) for i in range(6)]
    together = [o.token_id for o in sample(rows.clone(), specs)]
    assert together == [sample(rows[i : i + 1].clone(), [specs[i]])[0].token_id for i in range(6)]
    row = logits(scale=0.1)
    tokens = [sample(row.clone(), [spec(3, output=[1] * n)])[0].token_id for n in range(20)]
    assert len(set(tokens)) > 10


def test_repetition_penalty_counts_prompt_and_output_and_weakens_either_sign() -> None:
    row = torch.tensor([[3.0, 2.0, -1.0, -1.1, 1.9]])
    [output] = sample(row.clone(), [spec(temperature=0, repetition_penalty=2.0, prompt=[0], output=[1, 1])])
    assert output.token_id == 4
    [output] = sample(row[:, 2:4].clone(), [spec(temperature=0, repetition_penalty=2.0, prompt=[0])])
    assert output.token_id == 1  # -1 becomes -2


def test_frequency_and_presence_penalties_count_the_output_only() -> None:
    row = torch.tensor([[2.0, 1.5, 1.0]])
    cases = [
        (spec(temperature=0, frequency_penalty=0.4, prompt=[0, 0, 0], output=[0]), 0),  # 1.6 stays ahead
        (spec(temperature=0, frequency_penalty=0.4, output=[0, 0]), 1),  # 1.2
        (spec(temperature=0, presence_penalty=0.4, output=[0, 0, 0]), 0),  # 1.6, however often
        (spec(temperature=0, presence_penalty=1.1, output=[0, 1]), 2),
    ]
    for wish, expected in cases:
        assert sample(row.clone(), [wish])[0].token_id == expected


def test_logit_bias_adds_and_unknown_ids_change_nothing() -> None:
    row = logits()
    assert sample(row.clone(), [spec(temperature=0, logit_bias={17: 100.0})])[0].token_id == 17
    best = int(row.argmax())
    assert sample(row.clone(), [spec(temperature=0, logit_bias={VOCAB: 100.0, -1: 100.0})])[0].token_id == best
    assert sample(row.clone(), [spec(temperature=0, banned=[VOCAB, -1])])[0].token_id == best


def test_banned_tokens_are_never_chosen_even_with_a_bias() -> None:
    row = logits()
    best = int(row.argmax())
    assert sample(row.clone(), [spec(temperature=0, banned=[best], logit_bias={best: 50.0})])[0].token_id != best
    assert best not in allowed(row, banned=[best], temperature=0.3)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_without_a_valid_token_fails_alone(temperature: float) -> None:
    rows = logits(6)
    rows[1] = float("nan")
    rows[2] = float("-inf")
    rows[3, 4] = float("inf")
    specs = [spec(i, temperature=temperature) for i in range(6)]
    specs[4] = spec(4, temperature=temperature, banned=range(VOCAB))
    outputs = sample(rows.clone(), specs)
    assert [o.error is None for o in outputs] == [True, False, False, False, False, True]
    for i in (0, 5):
        assert outputs[i] == sample(rows[i : i + 1].clone(), [specs[i]])[0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logprobs_are_those_of_the_raw_logits(temperature: float) -> None:
    row = logits()
    expected = torch.log_softmax(row[0], -1)
    wish = spec(5, temperature=temperature, logprobs=3, logit_bias={7: 30.0}, presence_penalty=1.0)
    [output] = sample(row.clone(), [wish])
    assert output.token_id == 7
    assert output.logprobs is not None
    chosen = output.logprobs.chosen
    assert chosen.token_id == 7
    assert chosen.logprob == pytest.approx(float(expected[7]), abs=1e-5)
    assert chosen.rank == int((expected > expected[7]).sum()) + 1
    best = expected.topk(3)
    assert [t.token_id for t in output.logprobs.top] == best.indices.tolist()
    assert [t.rank for t in output.logprobs.top] == [1, 2, 3]
    assert [t.logprob for t in output.logprobs.top] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_logprobs_of_zero_give_the_chosen_token_alone_and_none_gives_nothing() -> None:
    rows = logits(3)
    outputs = sample(rows, [spec(logprobs=0), spec(), spec(logprobs=2 * VOCAB)])
    assert outputs[0].logprobs is not None
    assert outputs[0].logprobs.top == []
    assert outputs[1].logprobs is None
    assert outputs[2].logprobs is not None
    assert len(outputs[2].logprobs.top) == VOCAB


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(
            spec,
            seed=st.integers(0, 1 << 62),
            temperature=st.sampled_from([0.0, 0.7, 1.0, 5.0]),
            top_k=st.sampled_from([0, 1, 5, 100, 4096]),
            top_p=st.sampled_from([1.0, 0.95, 0.3, 1e-6]),
            min_p=st.sampled_from([0.0, 0.05, 1.0]),
            repetition_penalty=st.sampled_from([1.0, 1.3]),
            presence_penalty=st.sampled_from([0.0, -2.0]),
            output=st.lists(st.integers(0, VOCAB - 1), max_size=4),
            banned=st.lists(st.integers(0, VOCAB - 1), max_size=4),
            logprobs=st.sampled_from([None, 0, 2]),
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 1000),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_any_mix_of_parameters_samples_each_row_as_if_alone(
    specs: list[SampleSpec], seed: int, dtype: torch.dtype
) -> None:
    rows = logits(len(specs), seed=seed).to(dtype)
    together = sample(rows.clone(), specs)
    assert together == [sample(rows[i : i + 1].clone(), [s])[0] for i, s in enumerate(specs)]
    for output, wish in zip(together, specs, strict=True):
        assert output.error is None
        assert output.token_id is not None
        assert 0 <= output.token_id < VOCAB
        assert output.token_id not in wish.banned_token_ids
