"""Attention of a step's rows over the paged KV cache, grouped-query heads (Ainslie et al., arXiv:2305.13245)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 (its customary name)

if TYPE_CHECKING:
    from torch import Tensor

    from penstock.engine.runners.torch.kv_cache import KVCache
    from penstock.engine.runners.torch.reach import AttentionPlan, DecodeGroup, PrefillChunk, PrefillPiece
    from penstock.models.spec import ModelSpec


class Attention:
    """Writes a step's K and V into the cache and attends to it, layer by layer."""

    def __init__(self, spec: ModelSpec, cache: KVCache, device: torch.device) -> None:
        self._cache = cache
        self._heads, self._kv_heads, self._dim = spec.n_heads, spec.n_kv_heads, spec.head_dim
        self._scale = spec.attention_scale
        self._queries = spec.n_heads * spec.head_dim
        # With a mask, torch's fused kernels for GPUs take no grouped heads, but those for CPUs do it best.
        self._fold_groups = device.type != "cpu"

    def __call__(self, layer: int, qkv: Tensor, plan: AttentionPlan, slots: Tensor) -> Tensor:
        """Attend with rotated qkv [rows, (n_heads + 2 * n_kv_heads) * head_dim]; returns [rows, n_heads * head_dim].

        `plan` is for this layer's window; K and V of the rows go to `slots` [rows].
        """
        self._cache.write(layer, slots, qkv[:, self._queries :])
        parts = [self._decode(layer, qkv, group) for group in plan.decodes]
        for chunk in plan.prefills:
            parts.extend(self._prefill(layer, qkv, chunk))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _decode(self, layer: int, qkv: Tensor, group: DecodeGroup) -> Tensor:
        """The query heads that share a KV head are the rows of one small product, so K and V are never repeated."""
        n = group.bias.shape[0]
        q = qkv[group.rows, : self._queries].view(n, self._kv_heads, -1, self._dim)
        k, v = self._cache.read(layer, group.blocks, n)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=group.bias, scale=self._scale)
        return out.reshape(n, self._queries)

    def _prefill(self, layer: int, qkv: Tensor, chunk: PrefillChunk) -> list[Tensor]:
        if chunk.blocks is None:
            own = qkv[chunk.rows, self._queries :].view(-1, 2, self._kv_heads, self._dim)
            k, v = own[:, 0].transpose(0, 1).unsqueeze(0), own[:, 1].transpose(0, 1).unsqueeze(0)
        else:
            k, v = self._cache.read(layer, chunk.blocks, 1)
        return [self._piece(qkv, k, v, piece) for piece in chunk.pieces]

    def _piece(self, qkv: Tensor, k: Tensor, v: Tensor, piece: PrefillPiece) -> Tensor:
        """K and V are those of the whole chunk, [1, n_kv_heads, keys, head_dim]."""
        k, v = k[:, :, piece.keys], v[:, :, piece.keys]
        q = qkv[piece.rows, : self._queries].view(-1, self._heads, self._dim).transpose(0, 1)
        rows, bias = q.shape[1], piece.bias
        if bias is not None and bias.shape[0] > rows:
            q = F.pad(q, (0, 0, 0, bias.shape[0] - rows))
        if bias is not None and self._fold_groups:
            out = self._folded(q, k, v, bias)
        else:
            grouped = self._heads != self._kv_heads
            out = F.scaled_dot_product_attention(
                q.unsqueeze(0), k, v, attn_mask=bias, is_causal=bias is None, enable_gqa=grouped, scale=self._scale
            ).squeeze(0)
        return out[:, :rows].transpose(0, 1).reshape(rows, self._queries)

    def _folded(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """The heads of a group as further queries of their KV head: q [n_heads, queries, head_dim], and the result."""
        group, queries = self._heads // self._kv_heads, q.shape[1]
        folded = q.reshape(1, self._kv_heads, group * queries, self._dim)
        out = F.scaled_dot_product_attention(folded, k, v, attn_mask=bias.repeat(group, 1), scale=self._scale)
        return out.reshape(self._heads, queries, self._dim)
