"""What the PyTorch paths of this folder do to rows (N, D); every function can be differentiated, to any order.

They compute in `sum_dtype` and leave rounding to their callers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans_kernels.dropout import dropout_mask


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which rows are summed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def layer_norm(rows: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The normalised rows, their mean (N) and the inverse of their standard deviation (N)."""
    weight, bias = weight.to(rows.dtype), None if bias is None else bias.to(rows.dtype)
    y, mean, rstd = torch.native_layer_norm(rows, rows.shape[1:], weight, bias, eps)
    return y, mean[:, 0], rstd[:, 0]


def layer_norm_backward(
    grad: Tensor, rows: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of (rows, weight, bias) of `layer_norm`, as it or a kernel left the statistics."""
    grad, weight = grad.to(rows.dtype), weight.to(rows.dtype)
    # the last of the tensors is a bias, of which only the shape is looked at
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_layer_norm_backward(
        grad, rows, rows.shape[1:], mean[:, None], rstd[:, None], weight, weight, [True] * 3
    )
    return found


def drop(rows: Tensor, seed: Tensor | None, dropout_p: float) -> Tensor:
    """Dropout with the mask that the kernels draw; nothing without a seed."""
    if seed is None:
        return rows
    kept = dropout_mask((rows.shape[0], rows.shape[1]), dropout_p, seed)
    return torch.where(kept, rows / (1.0 - dropout_p), 0.0)
