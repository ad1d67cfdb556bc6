"""Which blocks hold which tokens, so that requests that begin alike compute their common part once.

What: an index over full blocks. The KV of a block depends on every token before it, so a block is found
    under the chain (the block before it, its own tokens); the first block of a chain has the sequence's
    `cache_root` before it, so that requests with different salts or adapters share nothing.
Inputs: token ids of full blocks, as sequences compute them; blocks that the pool takes back for other use.
Config: `block_size`.
Trade-offs: only full blocks are shared, so up to `block_size - 1` common tokens are computed again.

A key carries the tokens themselves, not a digest, and names its parent by a serial number that is never used
twice. The dictionary hashes a key and then compares it whole: two chains whose hashes collide cost a
comparison and never share a block. The tokens are packed into `bytes`, which Python hashes with a secret drawn
at start (SipHash, https://www.aumasson.jp/siphash/siphash.pdf), so nobody can craft prompts that collide.
Since a parent stands in the key as one number, a block is hashed once, however long the prompt before it.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from penstock.core.errors import InvariantError

if TYPE_CHECKING:
    from penstock.engine.sequence import Sequence

_Parent = int | str | tuple[int, str]  # the serial number of the block before, or the root
_Key = tuple[_Parent, bytes]


class PrefixCache:
    """Finds blocks by the tokens they and all blocks before them hold. Keeps no count of who holds a block."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self._block_size = block_size
        self._blocks: dict[_Key, int] = {}
        self._keys: list[_Key | None] = [None] * num_blocks  # by block; None: not in the cache
        self._serials = [0] * num_blocks  # by block; what its children call it
        self._last_serial = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, block: int) -> bool:
        return self._keys[block] is not None

    def match(self, sequence: Sequence) -> list[int]:
        """The blocks that hold the longest cached prefix of `sequence`, short of its last token.

        The last token is left out because its logits are wanted, so it must be computed.
        """
        size = self._block_size
        parent: _Parent = sequence.cache_root
        found: list[int] = []
        for start in range(0, (sequence.num_tokens - 1) // size * size, size):
            block = self._blocks.get(_key(parent, sequence.tokens(start, start + size)))
            if block is None:
                break
            found.append(block)
            parent = self._serials[block]
        return found

    def insert(self, sequence: Sequence, index: int) -> int:
        """Make the full block at `index` of a sequence's table findable.

        Returns the block that the cache holds for these tokens: another than the sequence's own if some
        other sequence computed the same first. The blocks before `index` must be in the cache.
        """
        table = sequence.block_table
        parent: _Parent = self._serials[table[index - 1]] if index else sequence.cache_root
        start = index * self._block_size
        key = _key(parent, sequence.tokens(start, start + self._block_size))
        block = self._blocks.setdefault(key, table[index])
        if self._keys[block] is None:
            self._last_serial += 1
            self._serials[block] = self._last_serial
            self._keys[block] = key
        return block

    def forget(self, block: int) -> None:
        """Drop `block` from the index, if it is there: its content is about to be overwritten."""
        key = self._keys[block]
        if key is not None:
            del self._blocks[key]
            self._keys[block] = None

    def check_integrity(self) -> None:
        """Raises InvariantError unless each cached block is found under its key and its parent is cached too."""
        by_block = {key: block for block, key in enumerate(self._keys) if key is not None}
        if by_block != self._blocks:
            raise InvariantError("KV blocks are cached under other tokens than they are said to hold.")
        serials = {self._serials[block] for block in self._blocks.values()}
        orphans = {parent for parent, _ in self._blocks if isinstance(parent, int)} - serials
        if orphans or len(serials) != len(self._blocks):
            raise InvariantError(f"{len(orphans)} cached KV blocks have lost the block before them.")


def _key(parent: _Parent, tokens: list[int]) -> _Key:
    return parent, array("q", tokens).tobytes()
