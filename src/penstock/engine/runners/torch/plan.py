"""Turns a step's sequences into rows and attention work: which rows read which blocks, under which mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from penstock.engine.runners.torch.reach import AttentionPlan, Reach

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from penstock.engine.runners.torch.kv_cache import KVCache
    from penstock.engine.runners.torch.lora import AdaptedRows
    from penstock.engine.types import SequenceStep

# Decodes are gathered and attended to in groups, padded to the longest of the group. Another group costs about
# as much as attending to this many tokens, so that is how much padding a group may hold.
_PADDING_TOKENS = 512
# Most tokens gathered at once, padding included: it bounds the copy of K and V that a layer works on.
_GATHER_TOKENS = 16384


@dataclass(frozen=True, slots=True)
class StepPlan:
    """A step as the decoder sees it. Rows are ordered by attention group, not as in the batch."""

    tokens: Tensor  # int64 [rows]
    positions: Tensor  # int64 [rows]
    slots: Tensor  # int64 [rows]: where each row's K and V go
    attention: tuple[AttentionPlan, ...]  # for each window
    rows: tuple[slice, ...]  # of each sequence, in the batch's order
    adapted: AdaptedRows | None = None  # those with an adapter


class Planner:
    """Plans steps for one KV cache.

    Args:
        windows: as `ModelSpec.windows` has them.
        dtype: of the attention masks: that of queries and keys.

    Attributes:
        reaches: what queries read, for each window.
    """

    def __init__(self, cache: KVCache, windows: Sequence[int | None], dtype: torch.dtype, device: torch.device) -> None:
        self.reaches = tuple(Reach(cache, window, dtype, device) for window in windows)
        self._block_size = cache.block_size
        self._device = device
        # In float32 no sequence is padded for another's sake: see `reach`.
        self._padding = 0 if dtype == torch.float32 else _PADDING_TOKENS

    def plan(self, sequences: Sequence[SequenceStep]) -> StepPlan:
        """Order `sequences` into rows. Each has at least one token and a block table that covers them."""
        groups = self._decode_groups(sequences)
        chunks = [i for i, s in enumerate(sequences) if len(s.token_ids) > 1]
        order = [i for group in groups for i in group] + chunks
        rows: list[slice] = [slice(0)] * len(sequences)
        end = 0
        for i in order:
            rows[i] = slice(end, end + len(sequences[i].token_ids))
            end = rows[i].stop
        tokens = np.fromiter((t for i in order for t in sequences[i].token_ids), dtype=np.int64, count=end)
        positions = np.concatenate([_positions(sequences[i]) for i in order])
        slots = np.concatenate([self._slots(sequences[i]) for i in order])
        attention = tuple(
            AttentionPlan(
                decodes=tuple(reach.group([sequences[i] for i in g], rows[g[0]].start) for g in groups),
                prefills=tuple(reach.chunk(sequences[i], rows[i]) for i in chunks),
            )
            for reach in self.reaches
        )
        return StepPlan(self._tensor(tokens), self._tensor(positions), self._tensor(slots), attention, tuple(rows))

    def is_one_decode_group(self, sequences: Sequence[SequenceStep]) -> bool:
        """True if each computes one token, and padding all to the longest context is worth it."""
        return all(len(s.token_ids) == 1 for s in sequences) and len(self._decode_groups(sequences)) == 1

    def _decode_groups(self, sequences: Sequence[SequenceStep]) -> list[list[int]]:
        """Indices of the one-token sequences, longest first, cut where padding or size would cost too much."""
        single = [(i, s) for i, s in enumerate(sequences) if len(s.token_ids) == 1]
        # The window that reaches furthest comes first, and alone decides how they are ordered and what they cost.
        widths = [(tuple(reach.width(s) for reach in self.reaches), i) for i, s in single]
        widths.sort(key=lambda item: (*(-width for width in item[0]), item[1]))
        groups: list[list[int]] = []
        padding = 0
        longest: tuple[int, ...] = ()
        for width, i in widths:
            if groups:
                padding += (longest[0] - width[0]) * self._block_size
                gathered = (len(groups[-1]) + 1) * longest[0] * self._block_size
                unlike = padding > self._padding or (not self._padding and width != longest)
            if not groups or unlike or gathered > _GATHER_TOKENS:
                groups.append([])
                padding, longest = 0, width
            groups[-1].append(i)
        return groups

    def _slots(self, s: SequenceStep) -> NDArray[np.int64]:
        size = self._block_size
        if len(s.token_ids) == 1:
            return np.array([s.block_table[s.start // size] * size + s.start % size])
        positions = _positions(s)
        return np.asarray(s.block_table, dtype=np.int64)[positions // size] * size + positions % size

    def _tensor(self, array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def _positions(s: SequenceStep) -> NDArray[np.int64]:
    return np.arange(s.start, s.start + len(s.token_ids), dtype=np.int64)
