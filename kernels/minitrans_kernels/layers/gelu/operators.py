"""The custom operators behind `bias_gelu`: Triton or PyTorch inside, opaque to a compiler, differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minitrans_kernels.layers.gelu import pytorch
from minitrans_kernels.registration import operator
from minitrans_kernels.runtime import runs_on_triton


@operator("minitrans_kernels::bias_gelu")
def forward(x: Tensor, bias: Tensor, approximate: str) -> Tensor:
    """GELU of x (N, F) + bias (F), in the dtype of x."""
    if runs_on_triton(x):
        from minitrans_kernels.layers.gelu import launch

        return launch.forward(x, bias, approximate)
    return pytorch.forward(x, bias, approximate)


@forward.register_fake
def _(x: Tensor, bias: Tensor, approximate: str) -> Tensor:
    return x.new_empty(x.shape)


@operator("minitrans_kernels::bias_gelu_backward")
def backward(grad_y: Tensor, x: Tensor, bias: Tensor, approximate: str) -> tuple[Tensor, Tensor]:
    """Gradients of (x, bias)."""
    if runs_on_triton(x):
        from minitrans_kernels.layers.gelu import launch

        return launch.backward(grad_y, x, bias, approximate)
    return pytorch.backward(grad_y, x, bias, approximate)


@backward.register_fake
def _(grad_y: Tensor, x: Tensor, bias: Tensor, approximate: str) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), bias.new_empty(bias.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, bias, ctx.approximate = inputs
    ctx.save_for_backward(x, bias)


def _differentiate(ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor, None]:
    x, bias = ctx.saved_tensors
    # under create_graph the gradients must themselves be differentiable
    path = pytorch.backward if torch.is_grad_enabled() else backward
    return (*path(grad_y, x, bias, ctx.approximate), None)


forward.register_autograd(_differentiate, setup_context=_save)
