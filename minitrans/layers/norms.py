"""Normalisation over the model width. The formula is in each docstring; one fused torch call computes it."""

from __future__ import annotations

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

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        wide = x if x.dtype == torch.float64 else x.float()
        normed = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        return self.weight * normed.to(self.weight.dtype)

    def extra_repr(self) -> str:
        """Width and eps, for print(model)."""
        return f"{self.weight.shape[0]}, eps={self.eps}"
