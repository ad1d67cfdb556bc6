"""The scheduler's rules one by one; `test_scheduler_properties` checks them all at once on random schedules."""

from __future__ import annotations

import pytest

from penstock.core.errors import ConfigError, InvalidRequestError, InvariantError, OverloadedError
from penstock.engine.scheduler import Scheduler, SchedulerConfig
from support.scheduling import PLENTY, config, decoding, request, step

# Tokens.


def test_given_a_prompt_over_the_budget_when_scheduled_then_it_is_computed_in_chunks_and_samples_once() -> None:
    scheduler = Scheduler(config(max_num_batched_tokens=10), PLENTY)
    sequence = scheduler.add(request("long", 25))
    chunks = []
    while not sequence.output_token_ids:
        [item] = scheduler.schedule(now=1.0)
        chunks.append((sequence.num_computed_tokens, item.num_tokens, item.samples))
        scheduler.advance(item, 7 if item.samples else None)

    assert chunks == [(0, 10, False), (10, 10, False), (20, 5, True)]


def test_given_nothing_decodes_when_prompts_arrive_then_they_share_the_whole_budget_in_order() -> None:
    scheduler = Scheduler(config(max_num_batched_tokens=50, max_prefill_tokens_while_decoding=1), PLENTY)
    for name in ("a", "b", "c"):
        scheduler.add(request(name, 20))

    assert step(scheduler) == {"a": 20, "b": 20, "c": 10}


def test_given_a_stream_decodes_when_prompts_arrive_then_they_share_the_cap_first_come_first_served() -> None:
    scheduler = Scheduler(config(max_num_batched_tokens=50, max_prefill_tokens_while_decoding=8), PLENTY)
    decoding(scheduler, "stream")
    for name in ("a", "b", "c"):
        scheduler.add(request(name, 6))

    assert step(scheduler) == {"stream": 1, "a": 6, "b": 2}
    assert step(scheduler) == {"stream": 1, "a": 1, "b": 4, "c": 4}


def test_given_a_stream_decodes_when_a_long_prompt_arrives_then_its_shares_shrink_as_attention_grows() -> None:
    settings = config(max_prefill_tokens_while_decoding=12, attention_span=12, max_model_len=64)
    scheduler = Scheduler(settings, PLENTY)
    stream = decoding(scheduler, "stream")
    scheduler.add(request("long", 40))
    scheduler.add(request("late", 4))

    shares = [step(scheduler) for _ in range(9)]

    assert [share.get("long") for share in shares] == [12, 6, 4, 4, 3, 3, 3, 3, 2]
    assert all(share["stream"] == 1 for share in shares)
    assert [share.get("late") for share in shares] == [None] * 8 + [4]
    scheduler.finish(stream)


def test_given_nothing_decodes_when_a_prompt_is_long_then_its_shares_stay_as_they_are() -> None:
    scheduler = Scheduler(config(max_num_batched_tokens=10, attention_span=1), PLENTY)
    scheduler.add(request("long", 40))

    assert [step(scheduler)["long"] for _ in range(4)] == [10, 10, 10, 10]


def test_given_many_streams_when_the_budget_is_small_then_each_stream_still_gets_its_token_in_every_step() -> None:
    scheduler = Scheduler(config(max_num_batched_tokens=4, max_num_seqs=16), PLENTY)
    for number in range(8):
        scheduler.add(request(f"r{number}", 2))
    for _ in range(3):
        step(scheduler)

    assert step(scheduler) == {"r0": 1, "r1": 1, "r2": 1}
    assert scheduler.stats().waiting == 5


def test_given_a_sequence_over_the_greatest_length_when_it_is_not_finished_then_nothing_beyond_is_scheduled() -> None:
    scheduler = Scheduler(config(max_model_len=8, max_num_seqs=1, enable_prefix_caching=False), PLENTY)
    sequence = decoding(scheduler, "full", 8, priority=1)

    assert sequence.num_tokens == 9
    assert scheduler.schedule(now=1.0) == []

    scheduler.add(request("urgent", 4))
    assert step(scheduler) == {"urgent": 4}
    scheduler.abort("urgent")
    [again] = scheduler.schedule(now=1.0)
    assert sequence.num_computed_tokens + again.num_tokens == 8
    assert not again.samples


def test_given_a_first_step_when_scheduled_then_its_time_is_kept_for_good() -> None:
    scheduler = Scheduler(config(), PLENTY)
    sequence = scheduler.add(request("r", 4))
    assert sequence.scheduled_time == 0.0

    for now in (3.5, 4.5):
        for item in scheduler.schedule(now):
            scheduler.advance(item, 7)

    assert sequence.scheduled_time == 3.5


# Order.


def test_given_different_priorities_when_one_place_is_free_then_the_lowest_number_then_the_earliest_gets_it() -> None:
    scheduler = Scheduler(config(max_num_seqs=1), PLENTY)
    scheduler.add(request("late", 4, priority=1, arrival_time=2.0))
    scheduler.add(request("early", 4, priority=1, arrival_time=1.0))
    scheduler.add(request("urgent", 4, priority=-1, arrival_time=3.0))
    scheduler.add(request("early too", 4, priority=1, arrival_time=1.0))
    order = []
    while scheduler.has_work:
        [name] = step(scheduler)
        order.append(name)
        scheduler.abort(name)

    assert order == ["urgent", "early", "early too", "late"]


def test_given_no_place_when_a_higher_priority_arrives_then_the_lowest_and_latest_makes_room() -> None:
    scheduler = Scheduler(config(max_num_seqs=3), PLENTY)
    kept = [decoding(scheduler, "first", priority=1), decoding(scheduler, "second", priority=1)]
    loser = decoding(scheduler, "third", priority=1)
    urgent = scheduler.add(request("urgent", 4))

    assert "third" not in step(scheduler)
    assert [sequence.status for sequence in (*kept, urgent)] == ["running"] * 3
    assert (loser.status, loser.preemptions, loser.block_table) == ("waiting", 1, [])


def test_given_no_place_when_the_same_priority_arrives_then_nobody_makes_room() -> None:
    scheduler = Scheduler(config(max_num_seqs=1), PLENTY)
    decoding(scheduler, "first")
    scheduler.add(request("second", 4, arrival_time=-1.0))

    assert step(scheduler) == {"first": 1}


def test_given_too_few_blocks_when_a_higher_priority_arrives_then_only_as_many_make_room_as_must() -> None:
    scheduler = Scheduler(config(), 16)
    low = [decoding(scheduler, f"low{number}", 14, priority=number) for number in (1, 2, 3)]  # 4 blocks each
    urgent = scheduler.add(request("urgent", 16))

    step(scheduler)

    assert urgent.status == "running"
    assert [sequence.status for sequence in low] == ["running", "running", "waiting"]


def test_given_room_could_not_be_made_when_a_higher_priority_arrives_then_nobody_is_pushed_out_in_vain() -> None:
    scheduler = Scheduler(config(), 16)
    decoding(scheduler, "equal", 30)  # 8 blocks
    low = decoding(scheduler, "low", 8, priority=1)
    big = scheduler.add(request("big", 40))  # 10 blocks

    step(scheduler)

    assert (big.status, low.status, low.preemptions) == ("waiting", "running", 0)


def test_given_victims_that_share_blocks_when_room_is_made_then_shared_blocks_are_counted_once() -> None:
    scheduler = Scheduler(config(), 16)
    prompt = list(range(32))
    decoding(scheduler, "one", [*prompt, 100], priority=1)
    decoding(scheduler, "two", [*prompt, 200], priority=1)
    urgent = scheduler.add(request("urgent", 60))  # 15 blocks: all must go

    step(scheduler)

    assert urgent.status == "running"
    assert scheduler.stats().preemptions == 2


def test_given_a_low_priority_prefill_when_a_higher_priority_arrives_then_the_higher_is_computed_first() -> None:
    scheduler = Scheduler(config(max_num_batched_tokens=10), PLENTY)
    scheduler.add(request("low", 40, priority=1))
    step(scheduler)
    scheduler.add(request("high", 15))

    assert step(scheduler) == {"high": 10}
    assert step(scheduler) == {"high": 5, "low": 5}


# Leaving.


def test_given_a_request_in_any_state_when_aborted_then_its_blocks_are_free_at_once() -> None:
    scheduler = Scheduler(config(max_num_seqs=2), PLENTY)
    running = decoding(scheduler, "running")
    starting = scheduler.add(request("starting", 4))
    waiting = scheduler.add(request("waiting", 4))
    plan = scheduler.schedule(now=1.0)

    for sequence in (running, starting, waiting):
        assert scheduler.abort(sequence.request_id) is sequence
        assert (sequence.status, sequence.block_table) == ("finished", [])
    assert scheduler.stats().blocks_used == 0
    for item in plan:
        scheduler.advance(item, 7)  # the step that was under way comes back

    assert not scheduler.has_work
    assert starting.output_token_ids == []
    scheduler.check_integrity()


def test_given_an_unknown_or_ended_request_when_aborted_then_nothing_happens() -> None:
    scheduler = Scheduler(config(), PLENTY)
    sequence = decoding(scheduler, "r")
    scheduler.finish(sequence)
    scheduler.finish(sequence)

    assert scheduler.abort("r") is None
    assert scheduler.abort("never") is None
    scheduler.check_integrity()


def test_given_an_id_is_reused_after_the_end_when_the_old_sequence_is_finished_again_then_the_new_one_lives() -> None:
    scheduler = Scheduler(config(), PLENTY)
    old = decoding(scheduler, "r")
    scheduler.finish(old)
    new = scheduler.add(request("r", 4))

    scheduler.finish(old)

    assert new.status == "waiting"
    assert step(scheduler) == {"r": 4}


def test_given_requests_in_both_queues_when_asked_for_stats_then_they_are_counted() -> None:
    scheduler = Scheduler(config(max_num_seqs=1), PLENTY)
    decoding(scheduler, "running", 5)
    scheduler.add(request("waiting", 4))

    stats = scheduler.stats()

    assert (stats.running, stats.waiting, stats.blocks_used, stats.preemptions) == (1, 1, 2, 0)


# Refusals.


def test_given_a_prompt_over_the_context_when_added_then_both_lengths_are_named() -> None:
    scheduler = Scheduler(config(max_model_len=64), PLENTY)

    with pytest.raises(InvalidRequestError, match=r"65 tokens.*64") as refusal:
        scheduler.add(request("long", 65))

    assert (refusal.value.param, refusal.value.code) == ("prompt", "context_length_exceeded")
    assert not scheduler.has_work


def test_given_an_empty_prompt_when_added_then_it_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="no tokens"):
        Scheduler(config(), PLENTY).add(request("empty", []))


def test_given_an_id_in_use_when_added_then_it_is_refused_and_the_first_lives() -> None:
    scheduler = Scheduler(config(), PLENTY)
    first = scheduler.add(request("r", 4))

    with pytest.raises(InvalidRequestError, match="'r' is already"):
        scheduler.add(request("r", 4))

    assert scheduler.abort("r") is first


def test_given_a_full_queue_when_added_then_it_is_refused_until_there_is_room() -> None:
    scheduler = Scheduler(config(max_num_seqs=2, max_waiting=2), PLENTY)
    for name in ("a", "b", "c", "d"):  # two find a place, two wait
        scheduler.add(request(name, 4))

    with pytest.raises(OverloadedError, match="2 requests are waiting"):
        scheduler.add(request("e", 4))
    step(scheduler)
    with pytest.raises(OverloadedError, match="2 requests are waiting"):
        scheduler.add(request("e", 4))
    scheduler.abort("a")
    assert scheduler.add(request("e", 4)).status == "waiting"


def test_given_a_pool_smaller_than_one_request_when_made_then_it_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="holds 60 tokens, fewer than the 64"):
        Scheduler(config(max_model_len=64, block_size=4), 15)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_num_seqs", 0),
        ("max_num_batched_tokens", 1),
        ("max_prefill_tokens_while_decoding", 0),
        ("attention_span", 0),
        ("max_model_len", -1),
        ("block_size", 0),
        ("max_waiting", 0),
    ],
)
def test_given_a_setting_that_is_too_small_when_made_then_it_is_named(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {value}") as refusal:
        config(**{name: value})

    assert refusal.value.param == name


# Integrity.


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda scheduler: scheduler._running.pop(), id="a running request is lost"),
        pytest.param(lambda scheduler: scheduler._waiting.reverse(), id="the queue is out of order"),
        pytest.param(lambda scheduler: scheduler._live.popitem(), id="a request is unknown"),
        pytest.param(lambda scheduler: setattr(scheduler._waiting[0], "status", "running"), id="a status is wrong"),
        pytest.param(lambda scheduler: scheduler._waiting[0].block_table.append(0), id="a waiting one holds a block"),
        pytest.param(lambda scheduler: scheduler._running[0].block_table.pop(), id="a block is lost"),
    ],
)
def test_given_damaged_bookkeeping_when_checked_then_it_says_so(damage) -> None:  # type: ignore[no-untyped-def]
    scheduler = Scheduler(config(max_num_seqs=1), PLENTY)
    decoding(scheduler, "running")
    for name in ("a", "b"):
        scheduler.add(request(name, 4))
    scheduler.check_integrity()

    damage(scheduler)

    with pytest.raises(InvariantError):
        scheduler.check_integrity()


def test_given_engine_defaults_when_configured_then_they_are_accepted() -> None:
    from penstock.engine.config import EngineConfig

    engine = EngineConfig(model_path="model.gguf")
    settings = SchedulerConfig(
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_prefill_tokens_while_decoding=80,
        attention_span=1000,
        max_model_len=2048,
        block_size=engine.block_size,
        max_waiting=engine.max_waiting,
        enable_prefix_caching=engine.enable_prefix_caching,
    )
    scheduler = Scheduler(settings, 2048)
    for number in range(300):
        scheduler.add(request(f"r{number}", 4))

    assert len(step(scheduler)) == 256
