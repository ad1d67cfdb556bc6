"""The prefix cache and the block tables: what is shared, what never is, and what is evicted first."""

from __future__ import annotations

from random import Random

import pytest

from penstock.core.errors import InvariantError
from penstock.engine import prefix_cache
from penstock.engine.block_tables import BlockTables
from penstock.engine.sequence import Sequence
from support.scheduling import request

BLOCK_SIZE = 4


def tables(num_blocks: int = 16, *, caching: bool = True) -> BlockTables:
    return BlockTables(num_blocks, BLOCK_SIZE, caching=caching)


def computed(where: BlockTables, prompt: list[int], *, salt: str = "", name: str = "r") -> Sequence:
    """A sequence whose whole prompt is in its blocks, as after a prefill."""
    sequence = Sequence(request(name, prompt, salt=salt))
    where.allocate(sequence, sequence.num_tokens, where.match(sequence))
    where.fill(sequence, sequence.num_tokens - sequence.num_computed_tokens)
    return sequence


def matched(where: BlockTables, prompt: list[int], *, salt: str = "") -> list[int]:
    return where.match(Sequence(request("asks", prompt, salt=salt)))


def test_given_a_computed_prompt_when_another_begins_alike_then_it_gets_the_full_blocks_in_common() -> None:
    where = tables()
    first = computed(where, [1, 2, 3, 4, 5, 6, 7, 8, 9])

    assert matched(where, [1, 2, 3, 4, 5, 6, 7, 8, 90, 91]) == first.block_table[:2]
    assert matched(where, [1, 2, 3, 4, 5, 60, 7, 8, 9]) == first.block_table[:1]
    assert matched(where, [10, 2, 3, 4, 5, 6, 7, 8, 9]) == []


def test_given_the_same_prompt_when_matched_then_its_last_token_is_left_to_compute() -> None:
    where = tables()
    first = computed(where, list(range(8)))

    assert matched(where, list(range(8))) == first.block_table[:1]
    assert matched(where, list(range(9))) == first.block_table[:2]


def test_given_the_same_tokens_at_another_place_when_matched_then_they_are_not_shared() -> None:
    where = tables()
    computed(where, [1, 2, 3, 4, 5, 6, 7, 8])

    assert matched(where, [5, 6, 7, 8, 9]) == []
    assert matched(where, [1, 2, 3, 4, 1, 2, 3, 4, 9]) != []
    assert len(matched(where, [1, 2, 3, 4, 1, 2, 3, 4, 9])) == 1


def test_given_another_salt_when_matched_then_nothing_is_shared() -> None:
    where = tables()
    first = computed(where, list(range(9)), salt="mine")

    assert matched(where, list(range(9)), salt="mine") == first.block_table[:2]
    assert matched(where, list(range(9)), salt="yours") == []
    assert matched(where, list(range(9))) == []


def test_given_prompt_logprobs_when_matched_then_everything_is_computed_but_others_may_share_it() -> None:
    where = tables()
    first = computed(where, list(range(9)))
    scored = Sequence(request("scored", list(range(9)), prompt_logprobs=1))

    assert where.match(scored) == []
    assert matched(where, list(range(9))) == first.block_table[:2]


def test_given_caching_is_off_when_matched_then_nothing_is_found() -> None:
    where = tables(caching=False)
    first = computed(where, list(range(9)))
    where.release(first)

    assert matched(where, list(range(9))) == []
    where.check_integrity([])


def test_given_generated_tokens_when_their_block_is_full_then_a_follow_up_shares_it() -> None:
    where = tables()
    first = computed(where, [1, 2, 3])
    for token in (4, 5, 6, 7, 8):
        first.append(token)
        if first.num_tokens > len(first.block_table) * BLOCK_SIZE:
            where.grow(first)
        where.fill(first, 1)

    assert matched(where, [1, 2, 3, 4, 5, 6, 7, 8, 9]) == first.block_table


def test_given_a_block_that_is_not_full_when_matched_then_it_is_not_shared() -> None:
    where = tables()
    sequence = Sequence(request("r", list(range(9))))
    where.allocate(sequence, 9, [])
    where.fill(sequence, 7)

    assert matched(where, list(range(9))) == sequence.block_table[:1]


def test_given_two_that_compute_the_same_side_by_side_when_full_then_the_second_takes_the_firsts_blocks() -> None:
    where = tables()
    one, two = (Sequence(request(name, list(range(9)))) for name in ("one", "two"))
    for sequence in (one, two):
        where.allocate(sequence, 9, where.match(sequence))
    assert not set(one.block_table) & set(two.block_table)

    where.fill(one, 9)
    where.fill(two, 9)

    assert two.block_table[:2] == one.block_table[:2]
    assert two.block_table[2] != one.block_table[2]
    assert where.num_free == where.num_blocks - 4
    where.check_integrity([one, two])


def test_given_one_of_two_holders_leaves_then_the_other_keeps_the_shared_blocks() -> None:
    where = tables(4)
    first = computed(where, list(range(8)), name="first")
    second = computed(where, list(range(9)), name="second")
    shared = first.block_table[:2]

    where.release(first)

    assert second.block_table[:2] == shared
    assert where.num_free == 1
    where.check_integrity([second])


def test_given_all_memory_is_wanted_when_chains_are_evicted_then_the_least_recently_used_goes_tail_first() -> None:
    where = tables(6)
    old = computed(where, [1] * 8, name="old")
    new = computed(where, [2] * 8, name="new")
    where.release(old)
    where.release(new)
    taker = Sequence(request("taker", [3] * 12))

    where.allocate(taker, 12, [])  # two blocks never used, and one that must be evicted

    assert len(matched(where, [1] * 9)) == 1
    assert len(matched(where, [2] * 9)) == 2
    where.check_integrity([taker])


def test_given_a_block_that_was_not_full_when_memory_is_wanted_then_it_goes_before_any_cached_one() -> None:
    where = tables(5)
    old = computed(where, [1] * 8, name="old")
    where.release(old)
    new = computed(where, [2] * 9, name="new")
    partial = new.block_table[2]
    where.release(new)
    taker = Sequence(request("taker", [3]))

    where.allocate(taker, 1, [])

    assert taker.block_table == [partial]
    assert len(matched(where, [1] * 9)) == len(matched(where, [2] * 9)) == 2


def test_given_a_chain_was_used_again_when_memory_is_wanted_then_the_other_is_evicted() -> None:
    where = tables(4)
    old = computed(where, [1] * 8, name="old")
    new = computed(where, [2] * 8, name="new")
    where.release(old)
    where.release(new)
    again = Sequence(request("again", [1] * 8))
    where.allocate(again, 4, where.match(again))
    where.release(again)

    where.allocate(Sequence(request("taker", [3] * 12)), 12, [])

    assert len(matched(where, [1] * 9)) == 1
    assert matched(where, [2] * 9) == []


def test_given_a_block_was_evicted_when_it_is_computed_again_then_no_stale_child_is_found_under_it() -> None:
    where = tables(3)
    first = computed(where, [1] * 4 + [2] * 4, name="first")
    where.release(first)
    taker = computed(where, [3] * 12, name="taker")
    where.release(taker)
    again = computed(where, [1] * 4, name="again")

    assert matched(where, [1] * 4 + [2] * 4 + [9]) == again.block_table
    where.check_integrity([again])


class CollidingKey(tuple[int | str, bytes]):
    """A key whose hash says nothing: whatever is found is found by comparing."""

    __slots__ = ()

    def __hash__(self) -> int:
        return 0


def test_given_every_hash_is_equal_then_each_sequence_still_gets_only_its_own_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest_key = prefix_cache._key
    monkeypatch.setattr(prefix_cache, "_key", lambda parent, tokens: CollidingKey(honest_key(parent, tokens)))
    where = tables(512)
    random = Random(7)
    owner: dict[tuple[str, tuple[int, ...]], int] = {}
    holders = []
    for number in range(40):
        prompt = [random.randrange(2) for _ in range(random.randrange(1, 20))]
        salt = random.choice(["", "a", "b"])
        sequence = Sequence(request(f"r{number}", prompt, salt=salt))
        where.allocate(sequence, sequence.num_tokens, where.match(sequence))
        where.fill(sequence, sequence.num_tokens - sequence.num_computed_tokens)
        holders.append(sequence)
        for index in range(len(prompt) // BLOCK_SIZE):
            prefix = (salt, tuple(prompt[: (index + 1) * BLOCK_SIZE]))
            assert owner.setdefault(prefix, sequence.block_table[index]) == sequence.block_table[index]

    assert where._cache is not None
    assert {hash(key) for key in where._cache._blocks} == {0}
    assert len(set(owner.values())) == len(owner) > 20  # as many blocks as there are different prefixes
    where.check_integrity(holders)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda cache, table: cache._blocks.popitem(), id="a key is lost"),
        pytest.param(lambda cache, table: cache._keys.__setitem__(table[1], None), id="a block forgets its key"),
        pytest.param(lambda cache, table: cache.forget(table[0]), id="a parent goes before its child"),
        pytest.param(lambda cache, table: cache._serials.__setitem__(table[1], 1), id="a serial number comes twice"),
    ],
)
def test_given_a_damaged_cache_when_checked_then_it_says_so(damage) -> None:  # type: ignore[no-untyped-def]
    where = tables()
    first = computed(where, list(range(9)))
    where.check_integrity([first])

    damage(where._cache, first.block_table)

    with pytest.raises(InvariantError):
        where.check_integrity([first])


def test_given_a_table_that_holds_a_block_twice_or_not_at_all_when_checked_then_it_says_so() -> None:
    where = tables()
    first = computed(where, list(range(9)))

    with pytest.raises(InvariantError, match="hold 0"):
        where.check_integrity([])
    with pytest.raises(InvariantError, match="but 2 hold it"):
        where.check_integrity([first, first])
