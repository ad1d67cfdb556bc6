"""A plan divided among parts is still that plan."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.errors import InvalidRequestError
from penstock.lab.bench.arrivals import ClosedLoop, Gamma, schedule
from penstock.lab.bench.offer import Manner
from penstock.lab.bench.planned import Planned, Turn
from penstock.lab.bench.spread.split import Parts, manners, owner


def plan(count: int) -> list[Planned]:
    """Told apart by what they ask; every third is a conversation."""
    return [
        Planned(str(number), 1, due=number / 10, turns=(Turn("and then", 1),) * (number % 3 == 0))
        for number in range(count)
    ]


def drained(parts: Parts, part: int) -> list[Planned]:
    found = []
    while chunk := parts.chunk(part):
        found += chunk
    return found


@settings(max_examples=40)
@given(st.integers(0, 3000), st.integers(1, 7), st.none() | st.integers(7, 40), st.randoms())
def test_parts_are_disjoint_in_order_and_together_the_plan(
    count: int, parts: int, slots: int | None, random: object
) -> None:
    requests = plan(count)
    divided = Parts(iter(requests), parts, slots)
    order = list(range(parts))
    random.shuffle(order)  # type: ignore[attr-defined]
    found = {part: drained(divided, part) for part in order}
    for part, mine in found.items():
        assert mine == [each for number, each in enumerate(requests) if owner(number, parts, slots) == part]
    assert (
        sorted((each for mine in found.values() for each in mine), key=lambda each: int(str(each.prompt))) == requests
    )


def test_an_endless_plan_is_read_no_further_than_a_chunk_needs() -> None:
    read = []

    def endless() -> object:
        number = 0
        while True:
            read.append(number)
            yield Planned(str(number), 1)
            number += 1

    chunk = Parts(endless(), 4).chunk(2)  # type: ignore[arg-type]
    assert [int(str(each.prompt)) for each in chunk] == list(range(2, 4 * len(chunk), 4))
    assert len(read) <= 4 * len(chunk)


def test_long_prompts_make_small_chunks() -> None:
    long = "a" * (1 << 20)
    assert len(Parts([Planned(long, 1)] * 100, 1).chunk(0)) == 4


@given(st.integers(1, 9), st.integers(0, 60), st.integers(0, 500), st.integers(1, 400))
def test_parts_are_offered_as_the_whole_would_be(parts: int, more: int, warm_up: int, give_up: int) -> None:
    slots = parts + more
    each = manners(Manner(slots=slots, warm_up=warm_up, give_up=give_up), parts)
    assert sum(manner.slots or 0 for manner in each) == slots
    assert max(manner.slots or 0 for manner in each) - min(manner.slots or 0 for manner in each) <= 1
    assert sum(manner.warm_up for manner in each) == warm_up
    assert give_up <= sum(manner.give_up or 0 for manner in each) < give_up + parts


def test_a_closed_loop_s_first_round_goes_to_the_slots_it_takes() -> None:
    requests = schedule(iter(plan(0) or [Planned(str(n), 1) for n in range(40)]), ClosedLoop(5, ramp=1.0), 0, 40)
    divided = Parts(requests, 2, 5)
    rounds = [[each.due for each in divided.chunk(part) if each.due is not None] for part in range(2)]
    assert rounds == [[0.0, 0.4, 0.8], [0.2, 0.6000000000000001]]


def test_an_open_loop_s_parts_keep_their_due_times() -> None:
    times = [each.due for each in islice(schedule((Planned("a", 1) for _ in iter(int, 1)), Gamma(50), 3), 300)]
    divided = Parts(schedule((Planned("a", 1) for _ in iter(int, 1)), Gamma(50), 3, 300), 3)
    assert sorted(each.due or 0.0 for part in range(3) for each in drained(divided, part)) == times


def test_fewer_requests_at_once_than_parts_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="fewer --workers or more --concurrency"):
        manners(Manner(slots=2), 3)
