"""The meaning of rms_norm, in the dtype it is given (Zhang & Sennrich 2019, "Root Mean Square Layer Normalization")."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x (..., D) over the root of the mean of its squares, times weight (D)."""
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + eps) * weight
