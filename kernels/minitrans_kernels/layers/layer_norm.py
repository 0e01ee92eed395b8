"""`add_dropout_layer_norm`: what stands between two sublayers of a Transformer, in one pass over memory."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from minitrans_kernels.layers.arguments import check_eps, check_floats, check_shape, check_width, checked_seed
from minitrans_kernels.layers.fallback import drop, layer_norm, layer_norm_backward, sum_dtype
from minitrans_kernels.registration import operator
from minitrans_kernels.runtime import runs_on_triton


@overload
def add_dropout_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, *, eps: float, dropout_p: float = 0.0,
    dropout_seed: int | Tensor | None = None, return_sum: Literal[False] = False,
) -> Tensor: ...  # fmt: skip
@overload
def add_dropout_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, *, eps: float, dropout_p: float = 0.0,
    dropout_seed: int | Tensor | None = None, return_sum: Literal[True],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
def add_dropout_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    eps: float,
    dropout_p: float = 0.0,
    dropout_seed: int | Tensor | None = None,
    return_sum: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = LayerNorm(z) with z = dropout(x) + residual, and z too where a pre-norm block goes on with it.

    Sums are taken in float32 (float64 for float64); z is rounded to its dtype before it is normalised. Dropout zeroes what
    `dropout_mask((rows, D), dropout_p, dropout_seed)` does not keep, rows being the leading dimensions counted through,
    and divides the rest by 1 - dropout_p; the backward draws the mask again. Gradients are the same bits every time.

    Args:
        x: (..., D), what the sublayer returned; D is at most 8192 on a GPU.
        residual: as x, what went into the sublayer. Where the dtypes differ, y and z take the wider one, as `x + residual`.
        weight: (D), of any floating point dtype.
        bias: (D) or None.
        eps: added to the variance.
        dropout_p: probability with which an element of x is dropped.
        dropout_seed: a number, or an int64 tensor of one; required where dropout_p is positive.
        return_sum: whether to return (y, z).

    Raises:
        ValueError: for shapes that do not fit, another device, a negative eps, a dropout_p outside [0, 1) or without a seed.
        TypeError: for a dtype that is not floating point, and float64 on a GPU.

    Layer normalisation: Ba, Kiros & Hinton 2016, "Layer Normalization".
    """
    width = check_width("x", x)
    check_shape("residual", residual, x.shape)
    check_shape("weight", weight, (width,))
    check_shape("bias", bias, (width,))
    check_floats(x, x=x, residual=residual, weight=weight, bias=bias)
    check_eps(eps)
    seed = checked_seed(dropout_p, dropout_seed, x.device)
    learns = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (x, residual, weight, bias)
    )
    rows = (x.reshape(-1, width), residual.reshape(-1, width))
    y, z, _, _ = forward(*rows, weight, bias, seed, eps, dropout_p, return_sum or learns)
    return (y.view(x.shape), z.view(x.shape)) if return_sum else y.view(x.shape)


@operator("minitrans_kernels::layer_norm")
def forward(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None,
    eps: float, dropout_p: float, keep_sum: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """(y, z, mean, rstd) of x and residual (N, D); z is (0, D) unless kept, and must be kept where a backward follows."""
    if runs_on_triton(x):
        from minitrans_kernels.layers import layer_norm_kernels

        return layer_norm_kernels.forward(x, residual, weight, bias, seed, eps, dropout_p, keep_sum)
    dtype = torch.promote_types(x.dtype, residual.dtype)
    # rounded as the backward will find it
    z = (drop(x.to(sum_dtype(dtype)), seed, dropout_p) + residual).to(dtype)
    y, mean, rstd = layer_norm(z.to(sum_dtype(dtype)), weight, bias, eps)
    return y.to(dtype), z if keep_sum else z.new_empty((0, z.shape[1])), mean, rstd


@forward.register_fake
def _(x: Tensor, residual: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (count, width), keep_sum = x.shape, rest[-1]
    y = x.new_empty((count, width), dtype=torch.promote_types(x.dtype, residual.dtype))
    mean = x.new_empty(count, dtype=sum_dtype(y.dtype))
    return y, y.new_empty((count if keep_sum else 0, width)), mean, torch.empty_like(mean)


@operator("minitrans_kernels::layer_norm_backward")
def backward(
    grad_y: Tensor, grad_z: Tensor | None, z: Tensor, weight: Tensor, bias: Tensor | None, mean: Tensor, rstd: Tensor,
    seed: Tensor | None, dropout_p: float, separate: bool, x_dtype: torch.dtype, residual_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of (x, residual, weight, bias); the first is (0, D) unless separate, the last (0) without a bias."""
    given = (grad_y, grad_z, z, weight, bias, mean, rstd, seed, dropout_p)
    if runs_on_triton(z):
        from minitrans_kernels.layers import layer_norm_kernels

        return layer_norm_kernels.backward(*given, separate, x_dtype, residual_dtype)
    of_x, of_residual, of_weight, of_bias = _gradients(*given, x_dtype, residual_dtype)
    return of_x if separate else of_x.new_empty((0, z.shape[1])), of_residual, of_weight, of_bias


@backward.register_fake
def _(
    grad_y: Tensor, grad_z: Tensor | None, z: Tensor, weight: Tensor, bias: Tensor | None, mean: Tensor, rstd: Tensor,
    seed: Tensor | None, dropout_p: float, separate: bool, x_dtype: torch.dtype, residual_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    count, width = z.shape
    grad_x = z.new_empty((count if separate else 0, width), dtype=x_dtype)
    grad_bias = weight.new_empty(0) if bias is None else bias.new_empty(width)
    return grad_x, z.new_empty((count, width), dtype=residual_dtype), weight.new_empty(width), grad_bias


def _gradients(
    grad_y: Tensor, grad_z: Tensor | None, z: Tensor, weight: Tensor, bias: Tensor | None, mean: Tensor, rstd: Tensor,
    seed: Tensor | None, dropout_p: float, x_dtype: torch.dtype, residual_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As of `backward` where separate, in PyTorch, and differentiable."""
    grad, of_weight, of_bias = layer_norm_backward(grad_y, z.to(sum_dtype(z.dtype)), weight, mean, rstd)
    grad = grad if grad_z is None else grad + grad_z
    of_bias = weight.new_empty(0) if bias is None else of_bias.to(bias.dtype)
    return drop(grad, seed, dropout_p).to(x_dtype), grad.to(residual_dtype), of_weight.to(weight.dtype), of_bias


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, residual, weight, bias, seed, _, ctx.dropout_p, _ = inputs
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
    given = (grad_y, grad_z, z, weight, bias, mean, rstd, seed, ctx.dropout_p)
    separate = seed is not None or ctx.dtypes[0] != ctx.dtypes[1]
    if torch.is_grad_enabled():  # under create_graph the gradients must themselves be differentiable
        of_x, of_residual, of_weight, of_bias = _gradients(*given, *ctx.dtypes)
    else:
        of_x, of_residual, of_weight, of_bias = backward(*given, separate, *ctx.dtypes)
    of_inputs = (of_x if separate else of_residual, of_residual)
    return *of_inputs, of_weight, None if bias is None else of_bias, None, None, None, None


forward.register_autograd(_differentiate, setup_context=_save)
