"""GELU of x + bias and its backward in plain PyTorch, each differentiable; arguments as in `launch`."""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from minitrans_kernels.layers.rows import sum_dtype

_ROOT: Final = math.sqrt(2.0 / math.pi)
_CUBE: Final = 0.044715


def forward(x: Tensor, bias: Tensor, approximate: str) -> Tensor:
    """GELU of x (N, F) + bias (F), in the dtype of x."""
    return F.gelu(x.to(sum_dtype(x.dtype)) + bias, approximate=approximate).to(x.dtype)


def backward(grad_y: Tensor, x: Tensor, bias: Tensor, approximate: str) -> tuple[Tensor, Tensor]:
    """Gradients of (x, bias)."""
    u = x.to(sum_dtype(x.dtype)) + bias
    if approximate == "tanh":
        # 1/2 (1 + tanh v) = sigmoid(2 v)
        twice = 2.0 * _ROOT * (u + _CUBE * u**3)
        gate = torch.sigmoid(twice)
        slope = gate + u * gate * torch.sigmoid(-twice) * 2.0 * _ROOT * (1.0 + 3.0 * _CUBE * u**2)
    else:
        slope = 0.5 * (1.0 + torch.erf(u * math.sqrt(0.5))) + u * torch.exp(-0.5 * u**2) / math.sqrt(2.0 * math.pi)
    grad_x = grad_y.to(u.dtype) * slope
    return grad_x.to(x.dtype), grad_x.sum(0).to(bias.dtype)
