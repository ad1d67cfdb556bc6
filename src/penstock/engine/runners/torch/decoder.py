"""The one model: a decoder-only transformer with RMSNorm, rotary positions and a gated feed-forward, drawn from a
ModelSpec."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 (its customary name)

from penstock.engine.runners.torch.linear import activate, make_linear
from penstock.engine.runners.torch.rms_norm import RMSNorm
from penstock.engine.runners.torch.rotary import rotate_

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from penstock.engine.runners.torch.attention import Attention
    from penstock.engine.runners.torch.linear import Linear
    from penstock.engine.runners.torch.lora import LoraBank
    from penstock.engine.runners.torch.plan import StepPlan
    from penstock.engine.runners.torch.rotary import Rotary
    from penstock.models.spec import ModelSpec, Weights

    Change = Callable[[Sequence[str], Tensor, Tensor], None]


@dataclass(frozen=True, slots=True)
class Layer:
    """One block's weights. `qk_norm` [n_heads + n_kv_heads, head_dim] holds a row for each rotated head."""

    kind: int  # which of the model's windows it has
    attn_norm: RMSNorm
    qkv: Linear
    qk_norm: Tensor | None
    o: Linear
    attn_post_norm: RMSNorm | None
    mlp_norm: RMSNorm
    gate: Linear
    up: Linear
    down: Linear
    mlp_post_norm: RMSNorm | None


class Decoder:
    """Computes hidden states and logits; holds the weights and nothing of a request."""

    def __init__(
        self, spec: ModelSpec, weights: Weights, dtype: torch.dtype, device: torch.device, *, packs: bool = True
    ) -> None:
        reader = _Reader(weights, spec.rms_norm_eps, dtype, device, packs=packs)
        self._spec = spec
        self._rotated = spec.n_heads + spec.n_kv_heads
        self._layers = [_read_layer(reader, spec, i) for i in range(spec.n_layers)]
        self._embed = reader.tensor("embed.weight")
        self._final_norm = reader.norm("final_norm.weight")
        self._head = make_linear(self._embed if spec.tied_embeddings else reader.tensor("head.weight"), packs=packs)

    @property
    def nbytes(self) -> int:
        """Bytes of all weights as they lie in memory."""
        layers = sum(p.nbytes for x in self._layers for p in (x.qkv, x.o, x.gate, x.up, x.down))
        return int(self._embed.nbytes) + self._head.nbytes + layers

    def forward(self, plan: StepPlan, rotary: Rotary, attention: Attention, bank: LoraBank | None = None) -> Tensor:
        """The normalized hidden states after the last layer, [rows, hidden] in the model's dtype."""
        turns = rotary.at(plan.positions)
        # The residual stream stays in float32: rounded to bfloat16 at each of its additions, it would carry most
        # of the error there is.
        x = self._embed.index_select(0, plan.tokens).float()
        if self._spec.embedding_scale != 1:
            x = x.mul_(self._spec.embedding_scale)
        for i, layer in enumerate(self._layers):
            change = None if bank is None or plan.adapted is None else partial(bank.add, i, rows=plan.adapted)
            h = layer.attn_norm(x)
            qkv = layer.qkv(h)
            if change is not None:
                change(("q", "k", "v"), h, qkv)
            self._rotate(qkv, layer.qk_norm, *turns[layer.kind])
            attended = attention(i, qkv, plan.attention[layer.kind], plan.slots)
            x = _add(layer.o, attended, layer.attn_post_norm, x, change, "o")
            h = layer.mlp_norm(x)
            if bank is None or bank.is_empty:
                gated = layer.up.times(h, layer.gate.activated(h, self._spec.activation))
            else:  # apart for all rows: no row's bits are to depend on whether another has an adapter
                gate, up = layer.gate(h), layer.up(h)
                if change is not None:
                    change(("gate",), h, gate)
                    change(("up",), h, up)
                gated = activate(gate, self._spec.activation).mul_(up)
            x = _add(layer.down, gated, layer.mlp_post_norm, x, change, "down")
        return self._final_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [rows, hidden]: the float32 scores [rows, vocab] of each next token."""
        return self._head.wide(hidden)

    def _rotate(self, qkv: Tensor, norm: Tensor | None, cos: Tensor, sin: Tensor) -> None:
        """Normalize (where the model does) and rotate the query and key heads of qkv in place."""
        dim = self._spec.head_dim
        heads = qkv[:, : self._rotated * dim].view(-1, self._rotated, dim)
        if norm is not None:
            normed = F.rms_norm(heads, (dim,), eps=self._spec.rms_norm_eps)
            if torch.compiler.is_compiling():  # as in `rotate_`
                heads.copy_(normed * norm)
            else:
                torch.mul(normed, norm, out=heads)
        rotate_(heads, cos, sin)


def _add(
    product: Linear, x: Tensor, post_norm: RMSNorm | None, residual: Tensor, change: Change | None, module: str
) -> Tensor:
    """residual [rows, hidden] and what the product gives of x, with what adapters change in it, normed first where the
    model does."""
    y = product.plus(x, residual) if post_norm is None else product(x).float()
    if change is not None:
        change((module,), x, y)
    return y if post_norm is None else residual.add_(post_norm(y))


class _Reader:
    """Reads tensors one by one, each float32 copy dropped before the next is made."""

    def __init__(self, weights: Weights, eps: float, dtype: torch.dtype, device: torch.device, *, packs: bool) -> None:
        self._weights = weights
        self._eps = eps
        self._dtype = dtype
        self._device = device
        self._packs = packs

    def norm(self, name: str, dtype: torch.dtype | None = None) -> RMSNorm:
        """A norm, whose result is of the model's dtype or this; its weights stay in float32 like what they multiply."""
        weight = torch.from_numpy(self._weights.read(name)).to(self._device)
        return RMSNorm(weight, self._eps, dtype or self._dtype)

    def tensor(self, *names: str) -> Tensor:
        """The named tensors, joined along their first dimension."""
        parts = [torch.from_numpy(self._weights.read(name)).to(self._dtype) for name in names]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(self._device)

    def linear(self, *names: str, bias: Tensor | None = None) -> Linear:
        """The product with the named tensors, joined along their outputs."""
        return make_linear(self.tensor(*names), bias, packs=self._packs)


def _read_layer(reader: _Reader, spec: ModelSpec, i: int) -> Layer:
    at = f"layers.{i}."
    joined = ("q", "k", "v")
    bias = reader.tensor(*(f"{at}{n}.bias" for n in joined)) if spec.qkv_bias else None
    return Layer(
        kind=spec.windows.index(spec.window(i)),
        attn_norm=reader.norm(f"{at}attn_norm.weight"),
        qkv=reader.linear(*(f"{at}{n}.weight" for n in joined), bias=bias),
        qk_norm=_read_qk_norm(reader, spec, at) if spec.qk_norm else None,
        o=reader.linear(f"{at}o.weight"),
        attn_post_norm=reader.norm(f"{at}attn_post_norm.weight", torch.float32) if spec.post_norms else None,
        mlp_norm=reader.norm(f"{at}mlp_norm.weight"),
        gate=reader.linear(f"{at}gate.weight"),
        up=reader.linear(f"{at}up.weight"),
        down=reader.linear(f"{at}down.weight"),
        mlp_post_norm=reader.norm(f"{at}mlp_post_norm.weight", torch.float32) if spec.post_norms else None,
    )


def _read_qk_norm(reader: _Reader, spec: ModelSpec, at: str) -> Tensor:
    q, k = reader.tensor(f"{at}q_norm.weight"), reader.tensor(f"{at}k_norm.weight")
    return torch.cat((q.expand(spec.n_heads, -1), k.expand(spec.n_kv_heads, -1)))
