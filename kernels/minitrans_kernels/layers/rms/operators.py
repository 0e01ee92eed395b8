"""The custom operators behind `rms_norm`: Triton or PyTorch inside, opaque to a compiler, differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minitrans_kernels.layers.rms import pytorch
from minitrans_kernels.layers.rows import sum_dtype
from minitrans_kernels.registration import operator
from minitrans_kernels.runtime import runs_on_triton


@operator("minitrans_kernels::rms_norm")
def forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(y, rstd) of x (N, D); rstd is (N)."""
    if runs_on_triton(x):
        from minitrans_kernels.layers.rms import launch

        return launch.forward(x, weight, eps)
    return pytorch.forward(x, weight, eps)


@forward.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[0], dtype=sum_dtype(x.dtype))


@operator("minitrans_kernels::rms_norm_backward")
def backward(grad_y: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Gradients of (x, weight)."""
    if runs_on_triton(x):
        from minitrans_kernels.layers.rms import launch

        return launch.backward(grad_y, x, weight, rstd)
    return pytorch.backward(grad_y, x, weight, eps)


@backward.register_fake
def _(grad_y: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


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
        return (*pytorch.backward(grad_y, x, weight, ctx.eps), None)
    return (*backward(grad_y, x, weight, rstd, ctx.eps), None)


forward.register_autograd(_differentiate, setup_context=_save)
