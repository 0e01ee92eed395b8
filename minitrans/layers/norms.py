"""Normalisation over the model width. The formula is in each docstring; one fused torch call computes it."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """weight · (x - mean(x)) / sqrt(var(x) + eps) + bias (Ba et al. 2016), mean and biased variance over the last axis.

    Args:
        width: D.
        eps: added to the variance, inside the root.
        bias: whether there is one (N1: ModernBERT has none).
    """

    def __init__(self, width: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__(width, eps, bias=bias)

    def extra_repr(self) -> str:
        """Width and eps, for print(model)."""
        return f"{self.weight.shape[0]}, eps={self.eps}{', bias=False' if self.bias is None else ''}"


class RMSNorm(nn.Module):
    """weight · x / sqrt(mean(x²) + eps) (Zhang & Sennrich 2019); the mean of squares in at least float32 (T1).

    Args:
        width: D.
        eps: added to the mean of squares, inside the root.
    """

    initial: ClassVar[float] = 1.0  # of the weight

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), self.initial))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.weight * self.normed(x).to(self.weight.dtype)

    def normed(self, x: Tensor) -> Tensor:
        """x / sqrt(mean(x²) + eps), in at least float32."""
        wide = x if x.dtype == torch.float64 else x.float()
        return wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)

    def extra_repr(self) -> str:
        """Width and eps, for print(model)."""
        return f"{self.weight.shape[0]}, eps={self.eps}"


class OffsetRMSNorm(RMSNorm):
    """(1 + weight) · x / sqrt(mean(x²) + eps), rounded once (Gemma Team 2024): the weight begins at 0."""

    initial = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        normed = self.normed(x)
        return (normed * (1.0 + self.weight.to(normed.dtype))).to(x.dtype)
