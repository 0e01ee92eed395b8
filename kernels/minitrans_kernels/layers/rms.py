"""`rms_norm`: root mean square normalisation, in one pass over memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minitrans_kernels.layers.arguments import check_eps, check_floats, check_shape, check_width
from minitrans_kernels.layers.fallback import sum_dtype
from minitrans_kernels.registration import operator
from minitrans_kernels.runtime import runs_on_triton


def rms_norm(x: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) * weight, over the last dimension.

    Sums are taken in float32 (float64 for float64) and rounded once, at the end. Gradients are the same bits every time.

    Args:
        x: (..., D); D is at most 8192 on a GPU.
        weight: (D), of any floating point dtype; the result has that of x.
        eps: added to the mean of squares.

    Raises:
        ValueError: for shapes that do not fit, another device, a negative eps.
        TypeError: for a dtype that is not floating point, and float64 on a GPU.

    Zhang & Sennrich 2019, "Root Mean Square Layer Normalization".
    """
    width = check_width("x", x)
    check_shape("weight", weight, (width,))
    check_floats(x, x=x, weight=weight)
    check_eps(eps)
    y: Tensor = forward(x.reshape(-1, width), weight, eps)[0]
    return y.view(x.shape)


@operator("minitrans_kernels::rms_norm")
def forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(y, rstd) of x (N, D); rstd is (N)."""
    if runs_on_triton(x):
        from minitrans_kernels.layers import rms_kernels

        return rms_kernels.forward(x, weight, eps)
    rows = x.to(sum_dtype(x.dtype))
    rstd = torch.rsqrt((rows * rows).mean(1, keepdim=True) + eps)
    return (rows * rstd * weight).to(x.dtype), rstd[:, 0]


@forward.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[0], dtype=sum_dtype(x.dtype))


@operator("minitrans_kernels::rms_norm_backward")
def backward(grad_y: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Gradients of (x, weight)."""
    if runs_on_triton(x):
        from minitrans_kernels.layers import rms_kernels

        return rms_kernels.backward(grad_y, x, weight, rstd)
    return _gradients(grad_y, x, weight, eps)


@backward.register_fake
def _(grad_y: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _gradients(grad_y: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """In PyTorch, and differentiable: the statistics are taken again."""
    rows = x.to(sum_dtype(x.dtype))
    above = grad_y.to(rows.dtype)
    rstd = torch.rsqrt((rows * rows).mean(1, keepdim=True) + eps)
    normal = rows * rstd
    scaled = above * weight
    grad_x = (scaled - normal * (scaled * normal).mean(1, keepdim=True)) * rstd
    return grad_x.to(x.dtype), (above * normal).sum(0).to(weight.dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, ctx.eps = inputs
    ctx.save_for_backward(x, weight, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_y: Tensor | None, _: None) -> tuple[Tensor | None, Tensor | None, None]:
    if grad_y is None:
        return None, None, None
    x, weight, rstd = ctx.saved_tensors
    # under create_graph the gradients must themselves be differentiable
    if torch.is_grad_enabled():
        return (*_gradients(grad_y, x, weight, ctx.eps), None)
    return (*backward(grad_y, x, weight, rstd, ctx.eps), None)


forward.register_autograd(_differentiate, setup_context=_save)
