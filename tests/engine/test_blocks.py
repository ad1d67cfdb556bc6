"""The block pool: reference counts, and a free list that is the eviction order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.errors import InvariantError
from penstock.engine.blocks import BlockPool


def test_given_a_new_pool_when_allocating_then_each_block_comes_once() -> None:
    pool = BlockPool(5)

    assert sorted(pool.allocate() for _ in range(5)) == [0, 1, 2, 3, 4]
    assert pool.num_free == 0


def test_given_an_empty_pool_when_allocating_then_it_is_an_error_and_nothing_changes() -> None:
    pool = BlockPool(1)
    pool.allocate()

    with pytest.raises(InvariantError, match="empty pool"):
        pool.allocate()
    pool.check_integrity()


def test_given_kept_blocks_when_allocating_then_the_longest_idle_goes_first() -> None:
    pool = BlockPool(3)
    blocks = [pool.allocate() for _ in range(3)]
    for block in (blocks[1], blocks[0], blocks[2]):
        pool.release(block, keep=True)

    assert [pool.allocate() for _ in range(3)] == [blocks[1], blocks[0], blocks[2]]


def test_given_a_block_without_content_when_allocating_then_it_goes_before_all_with_content() -> None:
    pool = BlockPool(3)
    blocks = [pool.allocate() for _ in range(3)]
    pool.release(blocks[0], keep=True)
    pool.release(blocks[1], keep=False)

    assert pool.allocate() == blocks[1]


def test_given_an_idle_block_when_acquired_from_the_middle_then_the_others_keep_their_order() -> None:
    pool = BlockPool(4)
    blocks = [pool.allocate() for _ in range(4)]
    for block in blocks:
        pool.release(block, keep=True)

    pool.acquire(blocks[2])

    assert pool.free_blocks() == [blocks[0], blocks[1], blocks[3]]
    assert pool.references(blocks[2]) == 1


def test_given_a_shared_block_when_one_holder_leaves_then_it_stays_taken() -> None:
    pool = BlockPool(1)
    block = pool.allocate()
    pool.acquire(block)

    pool.release(block, keep=True)
    assert pool.num_free == 0

    pool.release(block, keep=True)
    assert pool.num_free == 1


def test_given_a_free_block_when_released_again_then_it_is_an_error_and_nothing_changes() -> None:
    pool = BlockPool(2)
    block = pool.allocate()
    pool.release(block, keep=False)

    with pytest.raises(InvariantError, match="more often than it was taken"):
        pool.release(block, keep=False)
    pool.check_integrity()


@given(st.integers(1, 6), st.lists(st.tuples(st.sampled_from(["take", "share", "keep", "drop"]), st.integers(0, 5))))
def test_given_any_history_then_the_pool_behaves_as_a_plain_list_of_idle_blocks(
    num_blocks: int, history: list[tuple[str, int]]
) -> None:
    pool = BlockPool(num_blocks)
    idle = list(range(num_blocks))
    references = [0] * num_blocks
    for action, choice in history:
        block = choice % num_blocks
        if action == "take" and idle:
            block = idle.pop(0)
            assert pool.allocate() == block
            references[block] = 1
        elif action == "share":
            pool.acquire(block)
            references[block] += 1
            if block in idle:
                idle.remove(block)
        elif action in {"keep", "drop"} and references[block]:
            pool.release(block, keep=action == "keep")
            references[block] -= 1
            if not references[block]:
                idle.insert(len(idle) if action == "keep" else 0, block)
        assert pool.free_blocks() == idle
        assert pool.num_free == len(idle)
        assert [pool.references(block) for block in range(num_blocks)] == references
        pool.check_integrity()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda pool: pool._references.__setitem__(0, 0), id="a holder is forgotten"),
        pytest.param(lambda pool: pool._references.__setitem__(2, 1), id="a queued block has a holder"),
        pytest.param(lambda pool: setattr(pool, "num_free", 1), id="the count is off"),
        pytest.param(lambda pool: pool._next.__setitem__(1, 3), id="a block falls out of the queue"),
        pytest.param(lambda pool: pool._next.__setitem__(3, 1), id="the queue runs in a circle"),
        pytest.param(lambda pool: pool._previous.__setitem__(4, 1), id="the end points elsewhere"),
    ],
)
def test_given_a_damaged_pool_when_checked_then_it_says_so(damage) -> None:  # type: ignore[no-untyped-def]
    pool = BlockPool(4)
    pool.allocate()
    pool.check_integrity()

    damage(pool)

    with pytest.raises(InvariantError):
        pool.check_integrity()
