"""`masked_lm_loss`: decoder and cross entropy of masked language modelling, only where there is a label."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minitrans_kernels.layers.arguments import check_device, check_floats, check_shape
from minitrans_kernels.layers.fallback import sum_dtype
from minitrans_kernels.registration import operator
from minitrans_kernels.runtime import runs_on_triton

# labelled rows that the PyTorch path takes at a time, so that the logits of all of them never exist at once
_ROWS = 512


def masked_lm_loss(
    hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, *, ignore_index: int = -100
) -> Tensor:
    """The mean cross entropy of linear(hidden) over the labelled positions, as float32 (float64 for float64).

    Equals `cross_entropy(linear(hidden, weight, bias), labels)`, but only labelled rows are multiplied, and their logits
    are made a tile at a time, forward and again backward: memory is O((N + V) · D), never N · V. The host never waits to
    learn how many labels there are. Without any label the loss is NaN and all gradients are zero, as in PyTorch.
    Gradients are the same bits every time.

    Args:
        hidden: (..., D), after the head's transform.
        labels: (...) int64. One that is neither ignored nor in 0 .. V - 1 gives NaN on a GPU, where finding out would mean
            waiting, and a ValueError on the CPU.
        weight: (V, D), of the dtype of hidden. float32 is multiplied as such unless
            `torch.set_float32_matmul_precision` allows less.
        bias: (V), of any floating point dtype, or None.
        ignore_index: the label of positions that have none.

    Raises:
        ValueError: for shapes that do not fit, or another device.
        TypeError: for labels that are not int64, dtypes that are not floating point or differ, and float64 on a GPU.

    Devlin et al. 2019, "BERT", section 3.1; Milakov & Gimelshein 2018, "Online normalizer calculation for softmax".
    """
    if hidden.ndim < 2 or hidden.shape[-1] == 0:
        raise ValueError(f"hidden must be (..., D) with D at least 1, got shape {tuple(hidden.shape)}")
    width = hidden.shape[-1]
    if weight.ndim != 2 or weight.shape[1] != width or weight.shape[0] == 0:
        raise ValueError(f"weight must be (V, {width}) with V at least 1, got shape {tuple(weight.shape)}")
    check_shape("labels", labels, hidden.shape[:-1])
    check_shape("bias", bias, (weight.shape[0],))
    check_floats(hidden, hidden=hidden, weight=weight, bias=bias)
    if weight.dtype != hidden.dtype:
        raise TypeError(f"weight must be {hidden.dtype} like hidden, got {weight.dtype}")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels must be int64, got {labels.dtype}")
    check_device(hidden, "labels", labels)
    labels = labels.reshape(-1)
    ignored = labels == ignore_index
    # the labelled rows first, in their order: no shape depends on how many they are
    order = torch.argsort(ignored.to(torch.uint8), stable=True)
    count = (~ignored).sum()
    loss: Tensor = forward(hidden.reshape(-1, width), labels, weight, bias, order, count)[0]
    return loss


@operator("minitrans_kernels::masked_lm_loss")
def forward(
    hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, order: Tensor, count: Tensor
) -> tuple[Tensor, Tensor]:
    """(mean loss, largest logit and sum of exponentials (2, N)): rows order[0 .. count - 1] of hidden (N, D) are labelled."""
    if runs_on_triton(hidden):
        from minitrans_kernels.layers import masked_loss_kernels

        return masked_loss_kernels.forward(hidden, labels, weight, bias, order, count)
    chosen, size = order[: int(count)], weight.shape[0]
    wrong = labels[chosen][(labels[chosen] < 0) | (labels[chosen] >= size)]
    if wrong.numel():
        raise ValueError(f"labels must be 0 .. {size - 1} or the ignored index, got {int(wrong[0])}")
    total = hidden.new_zeros((), dtype=sum_dtype(hidden.dtype))
    statistics = total.new_zeros((2, hidden.shape[0]))
    for first in range(0, len(chosen), _ROWS):
        rows = chosen[first : first + _ROWS]
        logits = _logits(hidden[rows], weight, bias)
        largest = logits.amax(1)
        exponentials = (logits - largest[:, None]).exp().sum(1)
        statistics[:, first : first + len(rows)] = torch.stack((largest, exponentials))
        total += (exponentials.log() + (largest - logits.gather(1, labels[rows, None])[:, 0])).sum()
    return total / count, statistics


@forward.register_fake
def _(hidden: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    statistics = hidden.new_empty((2, hidden.shape[0]), dtype=sum_dtype(hidden.dtype))
    return statistics.new_empty(()), statistics


@operator("minitrans_kernels::masked_lm_loss_backward")
def backward(
    grad_loss: Tensor, hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, order: Tensor,
    count: Tensor, statistics: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of (hidden, weight, bias), zeros where nothing is labelled; the last (0) without a bias."""
    if runs_on_triton(hidden):
        from minitrans_kernels.layers import masked_loss_kernels

        return masked_loss_kernels.backward(grad_loss, hidden, labels, weight, bias, order, count, statistics)
    return _gradients(grad_loss, hidden, labels, weight, bias, order, count)


@backward.register_fake
def _(
    grad_loss: Tensor, hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    grad_bias = weight.new_empty(0) if bias is None else bias.new_empty(bias.shape)
    return hidden.new_empty(hidden.shape), weight.new_empty(weight.shape), grad_bias


def _gradients(
    grad_loss: Tensor, hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, order: Tensor, count: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As of `backward`, in PyTorch, and differentiable."""
    chosen, dtype = order[: int(count)], sum_dtype(hidden.dtype)
    grad_hidden = hidden.new_zeros(hidden.shape, dtype=dtype)
    grad_weight = weight.new_zeros(weight.shape, dtype=dtype)
    grad_bias = weight.new_zeros(0 if bias is None else len(bias), dtype=dtype)
    for first in range(0, len(chosen), _ROWS):
        rows = chosen[first : first + _ROWS]
        states, targets = hidden[rows].to(dtype), labels[rows, None]
        probabilities = _logits(states, weight, bias).softmax(1)
        grad = probabilities.scatter_add(1, targets, probabilities.new_full(targets.shape, -1.0)) * (grad_loss / count)
        grad_hidden = grad_hidden.index_copy(0, rows, grad @ weight.to(dtype))
        grad_weight = grad_weight + grad.T @ states
        grad_bias = grad_bias if bias is None else grad_bias + grad.sum(0)
    return (
        grad_hidden.to(hidden.dtype), grad_weight.to(weight.dtype), grad_bias.to((weight if bias is None else bias).dtype)
    )  # fmt: skip


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    dtype = sum_dtype(states.dtype)
    logits = states.to(dtype) @ weight.to(dtype).T
    return logits if bias is None else logits + bias


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_loss: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad_loss is None:
        return (None,) * 6
    *inputs, statistics = ctx.saved_tensors
    # under create_graph the gradients must themselves be differentiable
    if torch.is_grad_enabled():
        of_hidden, of_weight, of_bias = _gradients(grad_loss, *inputs)
    else:
        of_hidden, of_weight, of_bias = backward(grad_loss, *inputs, statistics)
    return of_hidden, None, of_weight, None if inputs[3] is None else of_bias, None, None


forward.register_autograd(_differentiate, setup_context=_save)
