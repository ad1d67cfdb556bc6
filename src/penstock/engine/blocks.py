"""The KV cache's blocks: who holds them, and in which order the idle ones are used again."""

from __future__ import annotations

from penstock.core.errors import InvariantError


class BlockPool:
    """A fixed number of KV blocks with reference counts.

    Blocks that nobody holds stand in one queue, which is the free list and the eviction order at once:
    `allocate` takes the front. A released block whose content is worth keeping joins the back, so that the
    front is the least recently used; one without joins the front, and is used again before any content is lost.

    The queue is a doubly linked list threaded through two plain lists, not a `collections.deque`: a prefix
    cache hit takes an idle block out of the middle, which costs a deque a scan of all blocks and costs this
    two assignments. No operation allocates memory or depends on the number of blocks.
    """

    __slots__ = ("_end", "_next", "_previous", "_references", "num_blocks", "num_free")

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.num_free = num_blocks  # blocks nobody holds, with or without content
        self._references = [0] * num_blocks
        # The ring 0, 1, .., num_blocks - 1, _end: the last index is no block but the place before the
        # front and after the back, which spares every operation the question of an empty queue.
        self._end = num_blocks
        self._next: list[int] = [*range(1, num_blocks + 1), 0]
        self._previous: list[int] = [num_blocks, *range(num_blocks)]

    def references(self, block: int) -> int:
        """How many sequences hold `block`."""
        return self._references[block]

    def allocate(self) -> int:
        """The block that was idle longest, now held once. Whoever calls checks `num_free` first."""
        block = self._next[self._end]
        if block == self._end:
            raise InvariantError("A KV block was asked of an empty pool.")
        self._unlink(block)
        self._references[block] = 1
        return block

    def acquire(self, block: int) -> None:
        """Hold `block` once more, keeping its content, whether it is idle or shared."""
        if self._references[block] == 0:
            self._unlink(block)
        self._references[block] += 1

    def release(self, block: int, *, keep: bool) -> None:
        """Hold `block` once less. The last holder says whether its content is worth keeping."""
        references = self._references[block] - 1
        if references < 0:
            raise InvariantError(f"KV block {block} was released more often than it was taken.")
        self._references[block] = references
        if references == 0:
            self._link(block, after=self._previous[self._end] if keep else self._end)

    def free_blocks(self) -> list[int]:
        """The idle blocks, the next to be used first. Raises InvariantError if the queue is damaged."""
        blocks: list[int] = []
        last, block = self._end, self._next[self._end]
        while block != self._end:
            if self._previous[block] != last or len(blocks) == self.num_blocks:
                raise InvariantError(f"The queue of idle KV blocks is damaged at block {block}.")
            blocks.append(block)
            last, block = block, self._next[block]
        if self._previous[self._end] != last:
            raise InvariantError("The queue of idle KV blocks is damaged at its end.")
        return blocks

    def check_integrity(self) -> None:
        """Raises InvariantError unless exactly the blocks without a holder are in the queue, each once."""
        free = self.free_blocks()
        idle = self._references.count(0)
        if len(free) != self.num_free or idle != self.num_free or any(self._references[block] for block in free):
            raise InvariantError(
                f"{len(free)} KV blocks are queued as idle and {idle} have no holder, but {self.num_free} are counted."
            )

    def _unlink(self, block: int) -> None:
        before, after = self._previous[block], self._next[block]
        self._next[before] = after
        self._previous[after] = before
        self.num_free -= 1

    def _link(self, block: int, *, after: int) -> None:
        behind = self._next[after]
        self._next[after] = self._previous[behind] = block
        self._previous[block] = after
        self._next[block] = behind
        self.num_free += 1
