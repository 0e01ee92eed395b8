"""`bias_gelu`: the bias of a feed-forward layer and its activation, in one pass over memory."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from minitrans_kernels.layers.arguments import check_floats, check_shape
from minitrans_kernels.layers.fallback import sum_dtype
from minitrans_kernels.registration import operator
from minitrans_kernels.runtime import runs_on_triton

APPROXIMATIONS = ("none", "tanh")


def bias_gelu(x: Tensor, bias: Tensor, *, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """GELU(x + bias) = u Φ(u) with u = x + bias; the bias of the linear layer before it is added here and not there.

    Computed in float32 (float64 for float64) and rounded once. Gradients are the same bits every time.

    Args:
        x: (..., F), what the linear layer returned without its bias.
        bias: (F), of any floating point dtype; the result has that of x.
        approximate: "none" for the normal distribution function itself, "tanh" for the paper's approximation.

    Raises:
        ValueError: for shapes that do not fit, another device, or an unknown approximation.
        TypeError: for a dtype that is not floating point, and float64 on a GPU.

    Hendrycks & Gimpel 2016, "Gaussian Error Linear Units".
    """
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"x must be (..., F) with F at least 1, got shape {tuple(x.shape)}")
    if approximate not in APPROXIMATIONS:
        raise ValueError(f"approximate must be one of {APPROXIMATIONS}, got {approximate!r}")
    width = x.shape[-1]
    check_shape("bias", bias, (width,))
    check_floats(x, x=x, bias=bias)
    y: Tensor = forward(x.reshape(-1, width), bias, approximate)
    return y.view(x.shape)


@operator("minitrans_kernels::bias_gelu")
def forward(x: Tensor, bias: Tensor, approximate: str) -> Tensor:
    """GELU of x (N, F) + bias (F), in the dtype of x."""
    if runs_on_triton(x):
        from minitrans_kernels.layers import gelu_kernels

        return gelu_kernels.forward(x, bias, approximate)
    return F.gelu(x.to(sum_dtype(x.dtype)) + bias, approximate=approximate).to(x.dtype)


@forward.register_fake
def _(x: Tensor, bias: Tensor, approximate: str) -> Tensor:
    return x.new_empty(x.shape)


@operator("minitrans_kernels::bias_gelu_backward")
def backward(grad_y: Tensor, x: Tensor, bias: Tensor, approximate: str) -> tuple[Tensor, Tensor]:
    """Gradients of (x, bias)."""
    if runs_on_triton(x):
        from minitrans_kernels.layers import gelu_kernels

        return gelu_kernels.backward(grad_y, x, bias, approximate)
    return _gradients(grad_y, x, bias, approximate)


@backward.register_fake
def _(grad_y: Tensor, x: Tensor, bias: Tensor, approximate: str) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), bias.new_empty(bias.shape)


def _gradients(grad_y: Tensor, x: Tensor, bias: Tensor, approximate: str) -> tuple[Tensor, Tensor]:
    """In PyTorch, and differentiable."""
    u = x.to(sum_dtype(x.dtype)) + bias
    grad = torch.ops.aten.gelu_backward(grad_y.to(u.dtype), u, approximate=approximate)
    return grad.to(x.dtype), grad.sum(0).to(bias.dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, bias, ctx.approximate = inputs
    ctx.save_for_backward(x, bias)


def _differentiate(ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor, None]:
    x, bias = ctx.saved_tensors
    # under create_graph the gradients must themselves be differentiable
    compute = _gradients if torch.is_grad_enabled() else backward
    return (*compute(grad_y, x, bias, ctx.approximate), None)


forward.register_autograd(_differentiate, setup_context=_save)
