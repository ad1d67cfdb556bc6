"""The scheduler's rules for KV memory: who gets blocks, who waits, who gives them up, and what is shared."""

from __future__ import annotations

from penstock.engine.scheduler import Scheduler
from support.scheduling import PLENTY, config, decoding, request, step


def test_given_a_prompt_that_does_not_fit_now_when_blocks_are_freed_then_it_is_admitted() -> None:
    scheduler = Scheduler(config(), 16)
    first = decoding(scheduler, "first", 40)
    second = scheduler.add(request("second", 40))

    assert step(scheduler) == {"first": 1}
    scheduler.finish(first)
    assert step(scheduler) == {"second": 40}
    assert second.preemptions == 0


def test_given_one_runs_when_the_last_block_would_be_taken_then_it_is_left_for_its_growth() -> None:
    scheduler = Scheduler(config(), 16)
    first = decoding(scheduler, "first", 14)  # 4 blocks
    exact = scheduler.add(request("exact", 48))  # 12 blocks: all that are left

    assert step(scheduler) == {"first": 1}
    scheduler.finish(first)
    scheduler.abort("exact")
    assert exact.status == "finished"

    scheduler.add(request("alone", 64))  # nothing runs, so nothing is held back
    assert step(scheduler) == {"alone": 64}


def test_given_an_admitted_prompt_when_it_is_computed_in_chunks_then_its_blocks_are_there_from_the_start() -> None:
    scheduler = Scheduler(config(max_num_batched_tokens=4), 16)
    sequence = scheduler.add(request("long", 40))

    step(scheduler)

    assert sequence.num_computed_tokens == 4
    assert len(sequence.block_table) == 10


def test_given_no_idle_block_when_streams_grow_then_the_latest_is_preempted_and_resumes_where_it_was() -> None:
    scheduler = Scheduler(config(max_model_len=32), 8)
    first, second = decoding(scheduler, "first", 11), decoding(scheduler, "second", 11)
    while not second.preemptions:
        step(scheduler)
    said = list(second.output_token_ids)

    assert (second.status, second.num_computed_tokens, first.preemptions) == ("waiting", 0, 0)
    scheduler.finish(first)
    assert step(scheduler) == {"second": 4}  # its last full block was lost to the first's growth, the others not

    assert second.output_token_ids == [*said, 7]
    assert second.num_cached_tokens == 0  # what it finds of its own is no saving
    assert scheduler.stats().prefix_hit_tokens == 0


def test_given_its_blocks_were_overwritten_when_a_preempted_stream_returns_then_output_is_computed_as_prompt() -> None:
    scheduler = Scheduler(config(max_model_len=32, enable_prefix_caching=False), 8)
    first, second = decoding(scheduler, "first", 11), decoding(scheduler, "second", 11)
    while not second.preemptions:
        step(scheduler)
    scheduler.finish(first)
    known = second.num_tokens

    [item] = scheduler.schedule(now=1.0)

    assert (item.num_tokens, item.samples) == (known, True)
    assert second.tokens(0, known) == second.request.prompt_token_ids + second.output_token_ids


def test_given_no_idle_block_when_the_lowest_ranking_needs_one_then_it_sits_out_and_keeps_its_blocks() -> None:
    scheduler = Scheduler(config(max_model_len=32), 8)
    first = scheduler.add(request("first", 8))
    scheduler.add(request("second", 8))
    last = scheduler.add(request("last", 7))
    assert step(scheduler) == {"first": 8, "second": 8, "last": 7}
    assert step(scheduler) == {"first": 1, "second": 1, "last": 1}  # the first two take the two blocks that were idle

    assert step(scheduler) == {"first": 1, "second": 1}
    assert (last.status, last.preemptions, len(last.block_table)) == ("running", 0, 2)

    scheduler.finish(first)
    assert step(scheduler) == {"second": 1, "last": 1}


def test_given_a_big_request_waits_for_memory_when_small_ones_fit_then_only_a_bounded_number_go_first() -> None:
    scheduler = Scheduler(config(max_model_len=64), 16)
    holder = decoding(scheduler, "holder", 16)
    big = scheduler.add(request("big", 60))
    passed = 0
    for number in range(20):
        small = scheduler.add(request(f"small{number}", 2))
        step(scheduler)
        passed += small.status == "running"
        scheduler.finish(small)

    assert passed == 8
    scheduler.finish(holder)
    assert step(scheduler) == {"big": 60}
    assert big.preemptions == 0


def test_given_a_big_request_waits_for_memory_when_a_lower_priority_would_fit_then_it_waits_too() -> None:
    scheduler = Scheduler(config(), 16)
    decoding(scheduler, "holder", 16)
    scheduler.add(request("big", 60))
    scheduler.add(request("low", 2, priority=1))

    assert step(scheduler) == {"holder": 1}


def test_given_a_preempted_stream_waits_when_a_newcomer_would_fit_then_it_waits_too() -> None:
    scheduler = Scheduler(config(max_model_len=32), 8)
    decoding(scheduler, "first", 11)
    second = decoding(scheduler, "second", 11)
    while not second.preemptions:
        step(scheduler)
    scheduler.add(request("small", 2))

    assert step(scheduler) == {"first": 1}


# Prefix cache.


def test_given_a_shared_beginning_of_2k_tokens_when_the_second_arrives_then_only_the_rest_is_computed() -> None:
    scheduler = Scheduler(config(max_model_len=4096, max_num_batched_tokens=4096, block_size=16), 512)
    document = list(range(2048))
    decoding(scheduler, "first", [*document, 1, 2, 3])
    second = scheduler.add(request("second", [*document, 4, 5]))

    assert step(scheduler) == {"first": 1, "second": 2}
    assert second.num_cached_tokens == 2048
    assert scheduler.stats().prefix_query_tokens == 2051 + 2050
    assert scheduler.stats().prefix_hit_tokens == 2048


def test_given_the_first_has_ended_when_the_same_prompt_returns_then_all_but_its_last_block_is_cached() -> None:
    scheduler = Scheduler(config(), PLENTY)
    scheduler.finish(decoding(scheduler, "first", list(range(16))))
    assert scheduler.stats().blocks_used == 0
    second = scheduler.add(request("second", list(range(16))))

    assert step(scheduler) == {"second": 4}
    assert second.num_cached_tokens == 12


def test_given_prompt_logprobs_when_scheduled_then_the_cache_is_neither_read_nor_counted() -> None:
    scheduler = Scheduler(config(), PLENTY)
    decoding(scheduler, "first", list(range(16)))
    before = scheduler.stats()
    scheduler.add(request("scored", list(range(16)), prompt_logprobs=0))

    assert step(scheduler)["scored"] == 16
    assert scheduler.stats().prefix_query_tokens == before.prefix_query_tokens


def test_given_cached_blocks_are_held_by_others_when_memory_is_short_then_only_the_rest_is_asked_for() -> None:
    scheduler = Scheduler(config(), 16)
    document = list(range(48))
    decoding(scheduler, "first", [*document, 1])  # 13 blocks
    second = scheduler.add(request("second", [*document, 2]))  # one block of its own, and one is held back

    step(scheduler)

    assert second.status == "running"
    assert scheduler.stats().blocks_used == 14


def test_given_idle_cached_blocks_when_memory_is_short_then_they_count_as_taken_by_who_uses_them() -> None:
    scheduler = Scheduler(config(), 16)
    document = list(range(40))
    scheduler.finish(decoding(scheduler, "first", document))
    decoding(scheduler, "holder", 22)  # 6 blocks, and 10 idle of which 6 or more are cached
    second = scheduler.add(request("second", [*document, 1, 2]))  # 11 blocks

    step(scheduler)

    assert second.status == "waiting"
