"""What the PyTorch paths of this folder do to rows (N, D); every function can be differentiated."""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans_kernels.dropout import dropout_mask


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which rows are summed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def normalise(rows: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The rows with mean 0 and variance 1, their mean (N, 1) and the inverse of their standard deviation (N, 1)."""
    mean = rows.mean(1, keepdim=True)
    centred = rows - mean
    rstd = torch.rsqrt((centred * centred).mean(1, keepdim=True) + eps)
    return centred * rstd, mean, rstd


def backward_of_normalise(grad: Tensor, normal: Tensor, rstd: Tensor) -> Tensor:
    """The gradient of the rows before `normalise`, from that of the rows after it."""
    along = (grad * normal).mean(1, keepdim=True)
    return (grad - grad.mean(1, keepdim=True) - normal * along) * rstd


def drop(rows: Tensor, seed: Tensor | None, dropout_p: float) -> Tensor:
    """Dropout with the mask that the kernels draw; nothing without a seed."""
    if seed is None:
        return rows
    kept = dropout_mask((rows.shape[0], rows.shape[1]), dropout_p, seed)
    return torch.where(kept, rows / (1.0 - dropout_p), 0.0)
