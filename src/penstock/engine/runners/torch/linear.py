"""Matrix products with the weights of a layer, in the layout its device multiplies fastest."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 (its customary name)

if TYPE_CHECKING:
    from torch import Tensor

    from penstock.models.spec import Activation

# oneDNN chooses a blocked layout for the number of rows it is told to expect. Any from a handful up gives the
# layout that serves decode batches and prefill chunks alike; told 1, it keeps rows plain and batches are slow.
_EXPECTED_ROWS = 32


class Linear(Protocol):
    """`y = x @ weight.T + bias` for x [rows, in], with what commonly follows fused into it where possible."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """y + residual, in residual's dtype; residual is [rows, out] and may be overwritten."""
        ...

    def activated(self, x: Tensor, activation: Activation) -> Tensor:
        """activation(y)."""
        ...

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """y * factor; factor is [rows, out]."""
        ...

    def wide(self, x: Tensor) -> Tensor:
        """y in float32, as exactly as the device gives it."""
        ...

    @property
    def nbytes(self) -> int: ...


def make_linear(weight: Tensor, bias: Tensor | None = None, *, packs: bool = True) -> Linear:
    """The right product for where `weight` [out, in] lives. The caller drops its own reference to `weight`.

    Args:
        packs: reorder weights where that is faster; not for a compiler, which has to see what is multiplied.
    """
    if packs and weight.device.type == "cpu" and _has_onednn():
        return PackedLinear(weight, bias)
    return PlainLinear(weight, bias)


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and platform.machine().lower() in {"x86_64", "amd64"}


def activate(y: Tensor, activation: Activation) -> Tensor:
    """activation(y); y may be overwritten."""
    return F.silu(y, inplace=True) if activation == "silu" else F.gelu(y, approximate="tanh")


class PlainLinear:
    """Weights as they are; what torch does with them is the device library's business."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = weight
        self._bias = bias

    @property
    def nbytes(self) -> int:
        return int(self._weight.nbytes + (self._bias.nbytes if self._bias is not None else 0))

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self._weight, self._bias)

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        return residual.add_(self(x))

    def activated(self, x: Tensor, activation: Activation) -> Tensor:
        return activate(self(x), activation)

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        return self(x).mul_(factor)

    def wide(self, x: Tensor) -> Tensor:
        return self(x).float()


class PackedLinear:
    """Weights reordered once into oneDNN's blocked layout, and products with fused post-operations.

    In float32 a row's result does not depend, bit for bit, on how many rows share the product, provided there
    are at least two: a single row takes a matrix-vector kernel that sums in another order. So one row is
    computed as two equal ones; in bfloat16 that promise isn't made and the faster kernel is taken.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.nbytes = weight.nbytes + (bias.nbytes if bias is not None else 0)
        self._twin_single_rows = weight.dtype == torch.float32
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _EXPECTED_ROWS)
        self._bias = bias
        self._unary = torch.ops.mkldnn._linear_pointwise.default
        self._binary = torch.ops.mkldnn._linear_pointwise.binary

    def __call__(self, x: Tensor) -> Tensor:
        return self._apply(x, "none")

    def activated(self, x: Tensor, activation: Activation) -> Tensor:
        return self._apply(x, "swish") if activation == "silu" else self._apply(x, "gelu", "tanh")

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        return self._combine(x, residual, "add") if residual.dtype == x.dtype else residual.add_(self(x))

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        return self._combine(x, factor, "mul")

    def wide(self, x: Tensor) -> Tensor:
        """A bfloat16 product is summed in float32 and then rounded; a second one, less the first before it is
        rounded in its turn, gives the remainder, so that the sum of the two has twice the digits.
        """
        y = self(x)
        return y if y.dtype == torch.float32 else y.float().add_(self.plus(x, y.neg()))

    def _apply(self, x: Tensor, operation: str, algorithm: str = "") -> Tensor:
        if self._twin_single_rows and x.shape[0] == 1:
            return self._apply(x.repeat(2, 1), operation, algorithm)[:1]
        return self._unary(x, self._packed, self._bias, operation, [], algorithm)

    def _combine(self, x: Tensor, other: Tensor, operation: str) -> Tensor:
        if self._twin_single_rows and x.shape[0] == 1:
            return self._combine(x.repeat(2, 1), other.repeat(2, 1), operation)[:1]
        return self._binary(x, other, self._packed, self._bias, operation)
