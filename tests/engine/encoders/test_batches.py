"""Which texts are computed together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.engine.encoders.batches import BACKGROUND_TOKENS, ROUND_TOKENS, Item, Job, WaitingJobs, cut

LENGTHS = st.lists(st.integers(1, 300), max_size=20)


def waiting(jobs: list[list[int]]) -> tuple[WaitingJobs, list[Job]]:
    queue, made = WaitingJobs(), [Job(i, lengths) for i, lengths in enumerate(jobs)]
    for job in made:
        queue.add(job)
    return queue, made


@given(st.lists(LENGTHS, max_size=6), st.integers(1, 1000))
def test_every_text_is_dealt_once_in_its_requests_order(jobs: list[list[int]], most: int) -> None:
    queue, made = waiting(jobs)
    dealt: dict[int, list[int]] = {job.request_id: [] for job in made}
    while queue:
        items = queue.next_round(most)
        assert items
        assert len(items) == 1 or sum(item.length for item in items) <= most
        for item in items:
            dealt[item.job.request_id].append(item.index)
    assert dealt == {job.request_id: list(range(len(job.lengths))) for job in made}


@given(st.lists(LENGTHS.filter(len), min_size=2, max_size=6))
def test_no_request_gets_two_texts_more_than_another_that_still_waits(jobs: list[list[int]]) -> None:
    queue, made = waiting(jobs)
    while queue:
        queue.next_round(400)
        still = [job.dealt for job in made if job.dealt < len(job.lengths)]
        assert not still or max(still) - min(still) <= 1


def test_given_a_canceled_request_then_none_of_its_texts_is_dealt() -> None:
    queue, _ = waiting([[1, 1], [2, 2]])
    queue.cancel(0)
    queue.cancel(7)
    assert [(item.job.request_id, item.index) for item in queue.next_round()] == [(1, 0), (1, 1)]
    assert not queue


@given(LENGTHS, st.integers(1, 500), st.integers(0, 100))
def test_batches_hold_every_text_within_bounds(lengths: list[int], most: int, call: int) -> None:
    job = Job(0, lengths)
    batches = cut([Item(job, index) for index in range(len(lengths))], most, call)
    assert sorted(item.index for batch in batches for item in batch) == list(range(len(lengths)))
    for batch in batches:
        own = [item.length for item in batch]
        assert own == sorted(own)
        assert len(own) == 1 or len(own) * own[-1] <= most
    tops = [batch[-1].length for batch in batches]
    assert tops == sorted(tops)


def test_given_lengths_far_apart_then_padding_is_not_computed() -> None:
    job = Job(0, [5, 100, 6, 5])
    assert [[item.length for item in batch] for batch in cut([Item(job, i) for i in range(4)])] == [[5, 5, 6], [100]]


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 600)), min_size=1, max_size=10),
    st.floats(0, 0.5),
)
def test_given_a_delay_then_nobody_waits_longer_for_company_and_a_full_round_not_at_all(
    arrivals: list[tuple[float, int]], delay: float
) -> None:
    queue = WaitingJobs(delay)
    now, begun = 0.0, {}
    jobs = [Job(i, [length], arrived) for i, (arrived, length) in enumerate(sorted(arrivals))]
    for job in [*jobs, None]:  # an idle model: a round begins when its time has come, and takes none
        while (left := queue.seconds_left(now)) is not None and (job is None or now + left <= job.arrived):
            now += left
            begun.update((item.job.request_id, now) for item in queue.next_round())
        if job is not None:
            now = max(now, job.arrived)
            queue.add(job)
            full = sum(each.lengths[0] for each in jobs if each.arrived <= now and each.request_id not in begun
                       and each.request_id <= job.request_id) >= ROUND_TOKENS  # fmt: skip
            assert not full or queue.seconds_left(now) == 0
    assert begun.keys() == set(range(len(jobs)))
    assert all(begun[job.request_id] <= job.arrived + delay + 1e-9 for job in jobs)
    assert queue.seconds_left(now) is None


def test_given_a_request_that_is_canceled_then_its_tokens_fill_no_round() -> None:
    queue = WaitingJobs(delay=1)
    queue.add(Job(0, [ROUND_TOKENS], arrived=5))
    assert queue.seconds_left(5) == 0
    queue.add(Job(1, [3], arrived=5.25))
    queue.cancel(0)
    assert queue.seconds_left(5.5) == 0.5  # as the first came
    queue.cancel(1)
    assert queue.seconds_left(5.5) is None


@given(st.lists(st.tuples(LENGTHS, st.booleans()), max_size=8), st.integers(1, 3000))
def test_given_requests_in_the_background_then_they_wait_for_all_others_and_their_rounds_are_small(
    given_jobs: list[tuple[list[int], bool]], most: int
) -> None:
    queue = WaitingJobs()
    jobs = [Job(i, lengths, background=background) for i, (lengths, background) in enumerate(given_jobs)]
    for job in jobs:
        queue.add(job)
    while queue:
        left = any(job.dealt < len(job.lengths) for job in jobs if not job.background)
        items = queue.next_round(most)
        assert {item.job.background for item in items} == {not left}
        assert left or len(items) == 1 or sum(item.length for item in items) <= min(most, BACKGROUND_TOKENS)
    assert all(job.dealt == len(job.lengths) for job in jobs)
