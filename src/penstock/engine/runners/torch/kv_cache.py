"""The paged KV cache: every layer's keys and values, in blocks of a fixed number of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from penstock.models.spec import ModelSpec


class KVCache:
    """Per layer a tensor [num_blocks, block_size, 2 (key, value), n_kv_heads, head_dim].

    Token-major with key and value side by side: one scatter writes a step's new tokens and one gather of whole
    blocks (contiguous, some 12 KB for a small model) reads a sequence, as [tokens, 2, n_kv_heads, head_dim].

    One block more than asked for, `spare_block`, fills up block tables: no sequence owns it, and what padded
    rows write goes there.

    Args:
        apart: give each layer memory of its own. Of one memory that several names are written through, a compiler
            has to make one value again after each write.
    """

    def __init__(
        self,
        spec: ModelSpec,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        apart: bool = False,
    ) -> None:
        self.num_blocks = num_blocks
        self.spare_block = num_blocks
        self.block_size = block_size
        self._heads = (2, spec.n_kv_heads, spec.head_dim)
        self._width = 2 * spec.n_kv_heads * spec.head_dim
        shape = num_blocks + 1, block_size * self._width
        if apart:
            self._blocks = tuple(_zeros(shape, dtype, device) for _ in range(spec.n_layers))
        else:
            self._blocks = _zeros((spec.n_layers, *shape), dtype, device).unbind(0)
        self._slots = tuple(layer.view(-1, self._width) for layer in self._blocks)

    def write(self, layer: int, slots: Tensor, keys_values: Tensor) -> None:
        """Store keys_values [rows, 2 * n_kv_heads * head_dim] at slots [rows] (block * block_size + offset)."""
        if torch.compiler.is_compiling():  # to which both would be tensors of their own
            self._blocks[layer].view(-1, self._width).index_copy_(0, slots, keys_values)
        else:
            self._slots[layer].index_copy_(0, slots, keys_values)

    def read(self, layer: int, blocks: Tensor, sequences: int) -> tuple[Tensor, Tensor]:
        """Gather blocks [sequences * n], n for each; K, V, each [sequences, n_kv_heads, n * block_size, head_dim]."""
        gathered = self._blocks[layer].index_select(0, blocks)
        both = gathered.view(sequences, -1, *self._heads)
        return both[:, :, 0].transpose(1, 2), both[:, :, 1].transpose(1, 2)

    def scrub(self, blocks: Tensor) -> None:
        """Make blocks [n] finite. A NaN left in a freed block would reach its next owner through the zero
        weights of masked positions."""
        for layer in self._blocks:
            layer.index_copy_(0, blocks, layer.index_select(0, blocks).nan_to_num_())


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on a CPU by calloc, so that pages nobody has written yet take no memory (torch.zeros touches all)."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    raw = np.zeros(int(np.prod(shape)) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype).view(shape)
