"""Root mean square normalisation and its backward in plain PyTorch, each differentiable; arguments as in `launch`."""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans_kernels.layers.rows import sum_dtype


def forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(y, rstd) of x (N, D); rstd is (N)."""
    rows = x.to(sum_dtype(x.dtype))
    rstd = _inverse(rows, eps)
    return (rows * rstd * weight).to(x.dtype), rstd[:, 0]


def backward(grad_y: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Gradients of (x, weight); the statistics are taken again so that this can be differentiated."""
    rows = x.to(sum_dtype(x.dtype))
    above = grad_y.to(rows.dtype)
    rstd = _inverse(rows, eps)
    normal = rows * rstd
    scaled = above * weight
    grad_x = (scaled - normal * (scaled * normal).mean(1, keepdim=True)) * rstd
    return grad_x.to(x.dtype), (above * normal).sum(0).to(weight.dtype)


def _inverse(rows: Tensor, eps: float) -> Tensor:
    return torch.rsqrt((rows * rows).mean(1, keepdim=True) + eps)
