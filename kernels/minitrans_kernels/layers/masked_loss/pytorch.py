"""The masked language modelling loss and its backward in plain PyTorch, the latter differentiable; arguments as in `launch`.

Labelled rows are taken a few hundred at a time, so that the logits of all of them never exist at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans_kernels.layers.rows import sum_dtype

_ROWS = 512


def forward(
    hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, order: Tensor, count: Tensor
) -> tuple[Tensor, Tensor]:
    """(mean loss, largest logit and sum of exponentials (2, N)): rows order[0 .. count - 1] of hidden (N, D) are labelled.

    Raises:
        ValueError: where a label is no row of the weight.
    """
    chosen = order[: int(count)]
    _check_labels(labels[chosen], weight.shape[0])
    total = hidden.new_zeros((), dtype=sum_dtype(hidden.dtype))
    statistics = total.new_zeros((2, hidden.shape[0]))
    for first in range(0, len(chosen), _ROWS):
        rows = chosen[first : first + _ROWS]
        logits = _logits(hidden[rows], weight, bias)
        largest = logits.amax(1)
        exponentials = (logits - largest[:, None]).exp().sum(1)
        statistics[:, first : first + len(rows)] = torch.stack((largest, exponentials))
        total = total + (exponentials.log() + (largest - logits.gather(1, labels[rows, None])[:, 0])).sum()
    return total / count, statistics


def backward(
    grad_loss: Tensor,
    hidden: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    order: Tensor,
    count: Tensor,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of (hidden, weight, bias): zeros where nothing is labelled."""
    chosen = order[: int(count)]
    dtype = sum_dtype(hidden.dtype)
    grad_hidden = hidden.new_zeros(hidden.shape, dtype=dtype)
    grad_weight = weight.new_zeros(weight.shape, dtype=dtype)
    grad_bias = weight.new_zeros(weight.shape[0], dtype=dtype)
    for first in range(0, len(chosen), _ROWS):
        rows = chosen[first : first + _ROWS]
        states = hidden[rows].to(dtype)
        probabilities = _logits(states, weight, bias).softmax(1)
        targets = labels[rows, None]
        grad = probabilities.scatter_add(1, targets, probabilities.new_full(targets.shape, -1.0)) * (grad_loss / count)
        grad_hidden = grad_hidden.index_copy(0, rows, grad @ weight.to(dtype))
        grad_weight = grad_weight + grad.T @ states
        grad_bias = grad_bias + grad.sum(0)
    return (
        grad_hidden.to(hidden.dtype),
        grad_weight.to(weight.dtype),
        None if bias is None else grad_bias.to(bias.dtype),
    )


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    dtype = sum_dtype(states.dtype)
    logits = states.to(dtype) @ weight.to(dtype).T
    return logits if bias is None else logits + bias


def _check_labels(labels: Tensor, size: int) -> None:
    wrong = labels[(labels < 0) | (labels >= size)]
    if wrong.numel():
        raise ValueError(f"labels must be 0 .. {size - 1} or the ignored index, got {int(wrong[0])}")
