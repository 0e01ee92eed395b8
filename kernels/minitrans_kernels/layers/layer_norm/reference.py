"""The meaning of add_dropout_layer_norm, in the dtype it is given (Ba, Kiros & Hinton 2016, "Layer Normalization")."""

from __future__ import annotations

import torch
from torch import Tensor


def add_dropout_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    kept: Tensor | None = None,
    dropout_p: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """(LayerNorm(z), z) with z = dropout(x) + residual (..., D); `kept` (bool, like x) says what dropout leaves."""
    if kept is not None:
        x = torch.where(kept, x / (1.0 - dropout_p), torch.zeros_like(x))
    z = x + residual
    deviation = z - z.mean(-1, keepdim=True)
    y = deviation / torch.sqrt((deviation**2).mean(-1, keepdim=True) + eps) * weight
    return (y if bias is None else y + bias), z
