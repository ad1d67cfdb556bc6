"""Background requests run in steps that nobody else needs, and always get on."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from penstock.engine.scheduler import Scheduler
from penstock.engine.types import BACKGROUND_PRIORITY
from support.scheduling import PLENTY, config, decoding, request, step

LOW = BACKGROUND_PRIORITY


def test_given_only_background_when_stepping_then_it_decodes_in_every_step() -> None:
    scheduler = Scheduler(config(), PLENTY)
    decoding(scheduler, "low", priority=LOW)
    assert [step(scheduler) for _ in range(4)] == [{"low": 1}] * 4


def test_given_background_decoding_when_a_prompt_comes_then_the_prompt_has_the_step_for_itself() -> None:
    scheduler = Scheduler(config(max_prefill_tokens_while_decoding=4), PLENTY)
    decoding(scheduler, "low", priority=LOW)
    scheduler.add(request("high", 30))
    assert step(scheduler) == {"high": 30}


def test_given_a_prompt_in_progress_when_background_waits_then_it_is_not_admitted() -> None:
    scheduler = Scheduler(config(max_num_batched_tokens=8), PLENTY)
    scheduler.add(request("high", 20))
    scheduler.add(request("low", 4, priority=LOW))
    assert [set(step(scheduler)) for _ in range(3)] == [{"high"}] * 3


def test_given_others_decoding_when_stepping_then_background_takes_part_in_every_eighth_step() -> None:
    scheduler = Scheduler(config(), PLENTY)
    decoding(scheduler, "low", priority=LOW)
    decoding(scheduler, "high")
    shares = [set(step(scheduler)) for _ in range(24)]
    assert sum(share == {"high", "low"} for share in shares) == 3
    assert all("high" in share for share in shares)


def test_given_only_background_when_a_long_prompt_is_computed_then_it_goes_in_small_pieces() -> None:
    scheduler = Scheduler(config(max_prefill_tokens_while_decoding=8), PLENTY)
    scheduler.add(request("low", 40, priority=LOW))
    assert step(scheduler) == {"low": 8}


def test_given_no_memory_left_when_a_prompt_comes_then_background_is_pushed_out_and_returns() -> None:
    scheduler = Scheduler(config(max_model_len=40, block_size=4), 10)
    low = decoding(scheduler, "low", 30, priority=LOW)
    high = scheduler.add(request("high", 30))
    assert step(scheduler) == {"high": 30}
    assert low.preemptions == 1
    scheduler.finish(high)
    assert set(step(scheduler)) == {"low"}


@given(st.integers(0, 2**32))
def test_given_any_mixture_when_stepping_then_all_finish_and_no_step_is_empty(seed: int) -> None:
    random = Random(seed)
    settings = config(
        max_num_seqs=random.randint(1, 4),
        max_num_batched_tokens=random.randint(2, 24),
        max_prefill_tokens_while_decoding=random.randint(1, 2),
        max_model_len=24,
        block_size=random.randint(1, 4),
    )
    scheduler = Scheduler(settings, -(-24 // settings.block_size) * random.randint(1, 3))
    left = {}
    for number in range(random.randint(1, 8)):
        priority = random.choice([0, 1, LOW, LOW + 1])
        sequence = scheduler.add(request(str(number), random.randint(1, 12), priority=priority))
        left[sequence.request_id] = (sequence, random.randint(1, 10))
    while left:
        assert step(scheduler), "a step with work computed nothing"
        for name, (sequence, wanted) in list(left.items()):
            if len(sequence.output_token_ids) >= wanted:
                scheduler.finish(sequence)
                del left[name]
