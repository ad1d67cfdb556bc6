"""Gives sequences their KV blocks, and shares the full ones between those that begin alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.core.errors import InvariantError
from penstock.engine.blocks import BlockPool
from penstock.engine.prefix_cache import PrefixCache

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from penstock.engine.sequence import Sequence


class BlockTables:
    """The block pool and the prefix cache, kept in step.

    Three rules carry the sharing:

    - A block enters the cache once it is full, and is never written again, so sharing it is safe.
    - When two sequences compute the same block side by side, the second gives up its copy for the first's
      as soon as it is full. So whoever holds a cached block holds every block of the chain before it, too.
    - A table is released from its end. So in the queue of idle blocks a block always stands before its
      parent, and eviction eats chains from their tails: what remains can be found.
    """

    def __init__(self, num_blocks: int, block_size: int, *, caching: bool) -> None:
        self.block_size = block_size
        self._pool = BlockPool(num_blocks)
        self._cache = PrefixCache(num_blocks, block_size) if caching else None

    @property
    def num_blocks(self) -> int:
        return self._pool.num_blocks

    @property
    def num_free(self) -> int:
        """Blocks no sequence holds; those with cached content count, since they can be evicted."""
        return self._pool.num_free

    def match(self, sequence: Sequence) -> list[int]:
        """The cached blocks `sequence` may start from; to be used before any other block is allocated.

        Who needs each position computed gets none.
        """
        if self._cache is None or sequence.request.needs_every_position:
            return []
        return self._cache.match(sequence)

    def blocks_needed(self, num_tokens: int, cached: list[int]) -> int:
        """How many idle blocks a table for `num_tokens` takes that begins with `cached`, cached idle ones included."""
        held_by_others = sum(1 for block in cached if self._pool.references(block))
        return -(-num_tokens // self.block_size) - held_by_others

    def freed_by(self, victim: Sequence, dropped: dict[int, int], kept: Collection[int]) -> int:
        """How many idle blocks releasing `victim` would yield beside those in `kept`.

        `dropped` counts, by block, the references that releasing earlier victims would drop; it is added to.
        """
        freed = 0
        for block in victim.block_table:
            dropped[block] = dropped.get(block, 0) + 1
            if dropped[block] == self._pool.references(block) and block not in kept:
                freed += 1
        return freed

    def allocate(self, sequence: Sequence, num_tokens: int, cached: list[int]) -> None:
        """Give a sequence without blocks its table: `cached`, then idle blocks up to `num_tokens`."""
        for block in cached:
            self._pool.acquire(block)
        sequence.block_table.extend(cached)
        sequence.num_computed_tokens = len(cached) * self.block_size
        for _ in range(-(-num_tokens // self.block_size) - len(cached)):
            self.grow(sequence)

    def grow(self, sequence: Sequence) -> None:
        """Append one idle block to a table; whatever it held in the cache is lost."""
        block = self._pool.allocate()
        if self._cache is not None:
            self._cache.forget(block)
        sequence.block_table.append(block)

    def fill(self, sequence: Sequence, num_tokens: int) -> None:
        """The KV of the next `num_tokens` tokens of `sequence` is written: share the blocks that became full."""
        first = sequence.num_computed_tokens // self.block_size
        sequence.num_computed_tokens += num_tokens
        if self._cache is None:
            return
        for index in range(first, sequence.num_computed_tokens // self.block_size):
            own = sequence.block_table[index]
            shared = self._cache.insert(sequence, index)
            if shared != own:
                self._pool.acquire(shared)
                self._pool.release(own, keep=False)
                sequence.block_table[index] = shared

    def release(self, sequence: Sequence) -> None:
        """Take all blocks from a sequence; cached ones stay findable until the pool needs them."""
        cache = self._cache
        for block in reversed(sequence.block_table):
            self._pool.release(block, keep=cache is not None and block in cache)
        sequence.block_table.clear()
        sequence.num_computed_tokens = 0

    def check_integrity(self, holders: Iterable[Sequence]) -> None:
        """Raises InvariantError if a block is lost, counted wrongly, or cached where it can't be found."""
        self._pool.check_integrity()
        held: dict[int, int] = {}
        for sequence in holders:
            for block in sequence.block_table:
                held[block] = held.get(block, 0) + 1
        if len(held) != self._pool.num_blocks - self._pool.num_free:
            raise InvariantError(
                f"{self._pool.num_blocks - self._pool.num_free} KV blocks are taken, but sequences hold {len(held)}."
            )
        for block, count in held.items():
            if self._pool.references(block) != count:
                raise InvariantError(
                    f"KV block {block} counts {self._pool.references(block)} holders, but {count} hold it."
                )
        if self._cache is not None:
            self._cache.check_integrity()
