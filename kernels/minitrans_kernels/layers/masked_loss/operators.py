"""The custom operators behind `masked_lm_loss`: Triton or PyTorch inside, opaque to a compiler, differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minitrans_kernels.layers.masked_loss import pytorch
from minitrans_kernels.layers.rows import sum_dtype
from minitrans_kernels.registration import operator
from minitrans_kernels.runtime import runs_on_triton


@operator("minitrans_kernels::masked_lm_loss")
def forward(
    hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, order: Tensor, count: Tensor
) -> tuple[Tensor, Tensor]:
    """(mean loss, largest logit and sum of exponentials (2, N)): rows order[0 .. count - 1] of hidden (N, D) are labelled."""
    if runs_on_triton(hidden):
        from minitrans_kernels.layers.masked_loss import launch

        return launch.forward(hidden, labels, weight, bias, order, count)
    return pytorch.forward(hidden, labels, weight, bias, order, count)


@forward.register_fake
def _(
    hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, order: Tensor, count: Tensor
) -> tuple[Tensor, Tensor]:
    statistics = hidden.new_empty((2, hidden.shape[0]), dtype=sum_dtype(hidden.dtype))
    return statistics.new_empty(()), statistics


@operator("minitrans_kernels::masked_lm_loss_backward")
def backward(
    grad_loss: Tensor,
    hidden: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    order: Tensor,
    count: Tensor,
    statistics: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of (hidden, weight, bias), the last (0) without a bias."""
    if runs_on_triton(hidden):
        from minitrans_kernels.layers.masked_loss import launch

        found = launch.backward(grad_loss, hidden, labels, weight, bias, order, count, statistics)
    else:
        found = pytorch.backward(grad_loss, hidden, labels, weight, bias, order, count)
    return found[0], found[1], weight.new_empty(0) if found[2] is None else found[2]


@backward.register_fake
def _(
    grad_loss: Tensor,
    hidden: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    order: Tensor,
    count: Tensor,
    statistics: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_bias = weight.new_empty(0) if bias is None else bias.new_empty(bias.shape)
    return hidden.new_empty(hidden.shape), weight.new_empty(weight.shape), grad_bias


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_loss: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad_loss is None:
        return (None,) * 6
    hidden, labels, weight, bias, order, count, statistics = ctx.saved_tensors
    # under create_graph the gradients must themselves be differentiable
    if torch.is_grad_enabled():
        grads = pytorch.backward(grad_loss, hidden, labels, weight, bias, order, count)
    else:
        grads = backward(grad_loss, hidden, labels, weight, bias, order, count, statistics)
    return grads[0], None, grads[1], None if bias is None else grads[2], None, None


forward.register_autograd(_differentiate, setup_context=_save)
