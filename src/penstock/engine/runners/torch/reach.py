"""What the queries of one window read: which blocks, under which mask."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from penstock.engine.runners.torch.kv_cache import KVCache
    from penstock.engine.types import SequenceStep

# Most elements of one prefill mask. A chunk of more rows is cut into pieces of queries.
_MASK_ELEMENTS = 1 << 22
# In float32 a request's numbers don't depend on its company. Keys beyond a query's position weigh nothing, but how
# many there are can change the order of its sums; so there their number follows from the position alone: up to the
# next multiple of this many tokens. Pieces of a prefill end there too, wherever the scheduler cut the chunk, and
# their queries are padded to whole groups of those that the attention kernel takes together.
_SPAN_TOKENS = 128
_QUERY_GROUP = 32


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Sequences that each compute one token, of similar context length."""

    rows: slice
    blocks: Tensor  # int64 [n * width], the blocks of each sequence, padded with the spare one
    bias: Tensor  # [n, 1, 1, width * block_size]: 0 where a key is seen, -inf where not


@dataclass(frozen=True, slots=True)
class PrefillPiece:
    """Queries of one chunk that share a mask."""

    rows: slice
    keys: slice  # of the chunk's gathered context
    bias: Tensor | None  # [queries or more, keys]; None: plain causal, queries and keys begin together


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """One sequence that computes several tokens."""

    rows: slice
    blocks: Tensor | None  # int64; None: the chunk is the whole context, its K and V are the step's own
    pieces: tuple[PrefillPiece, ...]


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """A step's attention in layers of one window."""

    decodes: tuple[DecodeGroup, ...]
    prefills: tuple[PrefillChunk, ...]


class Reach:
    """Plans what queries read that see no further back than a window.

    Args:
        window: tokens each query sees, itself included; None: all.
        dtype: of the attention masks: that of queries and keys.
    """

    def __init__(self, cache: KVCache, window: int | None, dtype: torch.dtype, device: torch.device) -> None:
        self._block_size = cache.block_size
        self._spare = cache.spare_block
        self._window = window
        self._dtype = dtype
        self._device = device
        self._fixed = dtype == torch.float32
        self._span = -(-_SPAN_TOKENS // cache.block_size) if self._fixed else 1  # blocks

    def width(self, sequence: SequenceStep) -> int:
        """How many blocks a one-token step reads, spare ones at the end included."""
        return self._stop_block(sequence.start) - self._first_block(sequence.start)

    def decode_group(
        self, sequences: Sequence[SequenceStep], width: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Blocks [n, width] and hidden keys [n, width * block_size] of one-token steps, padded to `width`."""
        n, size = len(sequences), self._block_size
        blocks = np.full((n, width), self._spare, dtype=np.int64)
        first = np.empty((n, 1), dtype=np.int64)
        for i, s in enumerate(sequences):
            begin = self._first_block(s.start)
            seen = s.block_table[begin : s.start // size + 1]
            blocks[i, : len(seen)] = seen
            first[i] = begin * size
        keys = first + np.arange(width * size)
        last = np.array([s.start for s in sequences], dtype=np.int64).reshape(n, 1)
        hidden = keys > last
        if self._window is not None:
            hidden |= keys <= last - self._window
        return blocks, hidden

    def group(self, sequences: list[SequenceStep], first_row: int) -> DecodeGroup:
        """One-token steps whose rows begin at `first_row`, padded to the widest."""
        blocks, hidden = self.decode_group(sequences, max(map(self.width, sequences)))
        bias = self._bias(torch.from_numpy(hidden)).unsqueeze(1).unsqueeze(1)
        return DecodeGroup(slice(first_row, first_row + len(sequences)), self._tensor(blocks.reshape(-1)), bias)

    def chunk(self, s: SequenceStep, rows: slice) -> PrefillChunk:
        """A step of several tokens, which are these rows."""
        count = len(s.token_ids)
        if s.start == 0 and not self._fixed and (self._window is None or count <= self._window):
            return PrefillChunk(rows, None, (PrefillPiece(rows, slice(0, count), None),))
        cuts = self._cuts(s.start, s.start + count)
        begin, stop = self._first_block(self._aligned(s.start)), self._stop_block(s.start + count - 1)
        blocks = np.full(stop - begin, self._spare, dtype=np.int64)
        seen = s.block_table[begin : (s.start + count - 1) // self._block_size + 1]
        blocks[: len(seen)] = seen
        row = rows.start - s.start
        pieces = tuple(self._piece(a, b, row, begin * self._block_size) for a, b in pairwise(cuts))
        return PrefillChunk(rows, self._tensor(blocks), pieces)

    def _cuts(self, start: int, end: int) -> list[int]:
        """Where the queries at start .. end - 1 are cut into pieces, both ends included."""
        if self._fixed:
            step = self._span * self._block_size
            return [start, *range(self._aligned(start) + step, end, step), end]
        step = max(1, _MASK_ELEMENTS // end)
        return [*range(start, end, step), end]

    def _piece(self, start: int, end: int, row: int, base: int) -> PrefillPiece:
        """Queries at positions start .. end - 1; `row` is that of position 0, `base` the position of the first key."""
        first = self._first_block(self._aligned(start)) * self._block_size
        stop = self._stop_block(end - 1) * self._block_size if self._fixed else end
        padding = (start - end) % _QUERY_GROUP if self._fixed else 0
        positions = torch.arange(start, end + padding)[:, None]
        keys = torch.arange(first, stop)[None]
        hidden = keys > positions
        if self._window is not None:
            hidden |= keys <= positions - self._window
        return PrefillPiece(slice(row + start, row + end), slice(first - base, stop - base), self._bias(hidden))

    def _bias(self, hidden: Tensor) -> Tensor:
        bias = torch.zeros(hidden.shape, dtype=self._dtype).masked_fill_(hidden, float("-inf"))
        return bias.to(self._device)

    def _aligned(self, position: int) -> int:
        """Where the span of `position` begins; the position itself where spans don't matter."""
        step = self._span * self._block_size
        return position // step * step if self._fixed else position

    def _stop_block(self, position: int) -> int:
        """One past the last block that a query at `position` reads."""
        return -(-(position // self._block_size + 1) // self._span) * self._span

    def _first_block(self, position: int) -> int:
        """The first block that a query at `position` sees."""
        return 0 if self._window is None else max(0, position - self._window + 1) // self._block_size

    def _tensor(self, array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self._device)
