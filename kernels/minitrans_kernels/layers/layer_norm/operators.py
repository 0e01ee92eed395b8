"""The custom operators behind `add_dropout_layer_norm`: Triton or PyTorch inside, opaque to a compiler, differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minitrans_kernels.layers.layer_norm import pytorch
from minitrans_kernels.layers.rows import sum_dtype
from minitrans_kernels.registration import operator
from minitrans_kernels.runtime import runs_on_triton


@operator("minitrans_kernels::layer_norm")
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
    """(y, z, mean, rstd) of x and residual (N, D); z is (0, D) unless kept, and must be kept where a backward follows."""
    if runs_on_triton(x):
        from minitrans_kernels.layers.layer_norm import launch

        return launch.forward(x, residual, weight, bias, seed, eps, dropout_p, keep_sum)
    return pytorch.forward(x, residual, weight, bias, seed, eps, dropout_p, keep_sum)


@forward.register_fake
def _(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    eps: float,
    dropout_p: float,
    keep_sum: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    count, width = x.shape
    y = x.new_empty((count, width), dtype=torch.promote_types(x.dtype, residual.dtype))
    mean = x.new_empty(count, dtype=sum_dtype(y.dtype))
    return y, y.new_empty((count if keep_sum else 0, width)), mean, torch.empty_like(mean)


@operator("minitrans_kernels::layer_norm_backward")
def backward(
    grad_y: Tensor,
    grad_z: Tensor | None,
    z: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    seed: Tensor | None,
    eps: float,
    dropout_p: float,
    separate: bool,
    x_dtype: torch.dtype,
    residual_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of (x, residual, weight, bias); the first is empty unless separate, the last without a bias."""
    if runs_on_triton(z):
        from minitrans_kernels.layers.layer_norm import launch

        return launch.backward(
            grad_y, grad_z, z, weight, bias, mean, rstd, seed, dropout_p, separate, x_dtype, residual_dtype
        )
    grad_x, grad_residual, grad_weight, grad_bias = pytorch.backward(
        grad_y, grad_z, z, weight, bias, seed, eps, dropout_p, x_dtype, residual_dtype
    )
    grad_x = grad_x if separate else grad_x.new_empty((0, z.shape[1]))
    return grad_x, grad_residual, grad_weight, weight.new_empty(0) if grad_bias is None else grad_bias


@backward.register_fake
def _(
    grad_y: Tensor,
    grad_z: Tensor | None,
    z: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    seed: Tensor | None,
    eps: float,
    dropout_p: float,
    separate: bool,
    x_dtype: torch.dtype,
    residual_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    count, width = z.shape
    grad_bias = weight.new_empty(0) if bias is None else bias.new_empty(width)
    grad_x = z.new_empty((count if separate else 0, width), dtype=x_dtype)
    return grad_x, z.new_empty((count, width), dtype=residual_dtype), weight.new_empty(width), grad_bias


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, residual, weight, bias, seed, ctx.eps, ctx.dropout_p, _ = inputs
    _, z, mean, rstd = output
    ctx.save_for_backward(z, weight, bias, mean, rstd, seed)
    ctx.dtypes = (x.dtype, residual.dtype)
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_y: Tensor | None, grad_z: Tensor | None, *_: None) -> tuple[Any, ...]:
    if grad_y is None and grad_z is None:
        return (None,) * 8
    z, weight, bias, mean, rstd, seed = ctx.saved_tensors
    grad_y = torch.zeros_like(z) if grad_y is None else grad_y
    # under create_graph the gradients must themselves be differentiable
    if torch.is_grad_enabled():
        gradients = pytorch.backward(grad_y, grad_z, z, weight, bias, seed, ctx.eps, ctx.dropout_p, *ctx.dtypes)
        return (*gradients, None, None, None, None)
    separate = seed is not None or ctx.dtypes[0] != ctx.dtypes[1]
    grad_x, grad_residual, grad_weight, grad_bias = backward(
        grad_y, grad_z, z, weight, bias, mean, rstd, seed, ctx.eps, ctx.dropout_p, separate, *ctx.dtypes
    )
    return (
        grad_x if separate else grad_residual,
        grad_residual,
        grad_weight,
        None if bias is None else grad_bias,
        None,
        None,
        None,
        None,
    )


forward.register_autograd(_differentiate, setup_context=_save)
