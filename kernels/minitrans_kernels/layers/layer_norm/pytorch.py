"""LayerNorm(dropout(x) + residual) and its backward in plain PyTorch, each differentiable; arguments as in `launch`."""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans_kernels.layers.rows import backward_of_normalise, drop, normalise, sum_dtype


def forward(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    eps: float,
    dropout_p: float,
    keep_sum: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(y, z, mean, rstd) of x and residual (N, D); z is (0, D) unless kept."""
    dtype = torch.promote_types(x.dtype, residual.dtype)
    # rounded as the backward will find it
    z = (drop(x.to(sum_dtype(dtype)), seed, dropout_p) + residual).to(dtype)
    normal, mean, rstd = normalise(z.to(sum_dtype(dtype)), eps)
    y = normal * weight if bias is None else normal * weight + bias
    return y.to(dtype), z if keep_sum else z.new_empty((0, z.shape[1])), mean[:, 0], rstd[:, 0]


def backward(
    grad_y: Tensor,
    grad_z: Tensor | None,
    z: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    eps: float,
    dropout_p: float,
    x_dtype: torch.dtype,
    residual_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of (x, residual, weight, bias), from z; the statistics are taken again so that this can be differentiated."""
    total = z.to(sum_dtype(z.dtype))
    above = grad_y.to(total.dtype)
    normal, _, rstd = normalise(total, eps)
    result = backward_of_normalise(above * weight, normal, rstd)
    if grad_z is not None:
        result = result + grad_z
    grad_x = drop(result, seed, dropout_p).to(x_dtype)
    grad_weight = (above * normal).sum(0).to(weight.dtype)
    return grad_x, result.to(residual_dtype), grad_weight, None if bias is None else above.sum(0).to(bias.dtype)
