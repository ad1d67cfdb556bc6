"""Root mean square normalization (Zhang and Sennrich, arXiv:1910.07467)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 (its customary name)

if TYPE_CHECKING:
    from torch import Tensor


class RMSNorm:
    """`x / sqrt(mean(x^2) + eps) * weight` for float32 x [rows, size]; the result has the dtype given."""

    def __init__(self, weight: Tensor, eps: float, dtype: torch.dtype) -> None:
        self._weight = weight
        self._eps = eps
        self._dtype = dtype
        # torch's own is one kernel on GPUs, but on CPUs a row of eight operations, each with a temporary
        self._fused = weight.device.type != "cpu"
        self._eps_tensor = torch.full((), eps, device=weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        if self._fused:
            return F.rms_norm(x, self._weight.shape, self._weight, self._eps).to(self._dtype)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = torch.addcmul(self._eps_tensor, length, length, value=1 / x.shape[-1]).rsqrt_()
        return torch.mul(x, scale).mul_(self._weight).to(self._dtype)
