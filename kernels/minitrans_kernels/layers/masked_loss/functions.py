"""`masked_lm_loss`: decoder and cross entropy of masked language modelling, only where there is a label."""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans_kernels.layers.arguments import check_device, check_floats, check_shape
from minitrans_kernels.layers.masked_loss import operators


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
    loss: Tensor = operators.forward(hidden.reshape(-1, width), labels, weight, bias, order, count)[0]
    return loss
