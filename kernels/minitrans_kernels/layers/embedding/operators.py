"""The custom operators behind `embedding_layer_norm`: Triton or PyTorch inside, opaque to a compiler, differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minitrans_kernels.layers.embedding import pytorch
from minitrans_kernels.layers.embedding.pytorch import Lookup
from minitrans_kernels.layers.rows import sum_dtype
from minitrans_kernels.registration import operator
from minitrans_kernels.runtime import runs_on_triton


@operator("minitrans_kernels::embedding_layer_norm")
def forward(
    input_ids: Tensor,
    position_ids: Tensor,
    token_type_ids: Tensor | None,
    word: Tensor,
    position: Tensor,
    token_type: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    seed: Tensor | None,
    eps: float,
    dropout_p: float,
    padding_idx: int,
    position_padding_idx: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """(y (N, D), mean (N), rstd (N)) of ids (N); no row is padding where its index is -1."""
    lookup = Lookup(input_ids, position_ids, token_type_ids, word, position, token_type)
    if runs_on_triton(word):
        from minitrans_kernels.layers.embedding import launch

        return launch.forward(lookup, weight, bias, seed, eps, dropout_p)
    return pytorch.forward(lookup, weight, bias, seed, eps, dropout_p)


@forward.register_fake
def _(
    input_ids: Tensor,
    position_ids: Tensor,
    token_type_ids: Tensor | None,
    word: Tensor,
    position: Tensor,
    token_type: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    seed: Tensor | None,
    eps: float,
    dropout_p: float,
    padding_idx: int,
    position_padding_idx: int,
) -> tuple[Tensor, Tensor, Tensor]:
    count = input_ids.shape[0]
    mean = word.new_empty(count, dtype=sum_dtype(word.dtype))
    return word.new_empty((count, word.shape[1])), mean, torch.empty_like(mean)


@operator("minitrans_kernels::embedding_layer_norm_backward")
def backward(
    grad_y: Tensor,
    input_ids: Tensor,
    position_ids: Tensor,
    token_type_ids: Tensor | None,
    word: Tensor,
    position: Tensor,
    token_type: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    seed: Tensor | None,
    eps: float,
    dropout_p: float,
    padding_idx: int,
    position_padding_idx: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of (word, position, token_type, weight, bias), the third (0) where there are no types."""
    lookup = Lookup(input_ids, position_ids, token_type_ids, word, position, token_type)
    paddings = (padding_idx, position_padding_idx)
    if runs_on_triton(word):
        from minitrans_kernels.layers.embedding import launch

        found = launch.backward(grad_y, lookup, weight, bias, mean, rstd, seed, dropout_p, *paddings)
    else:
        found = pytorch.backward(grad_y, lookup, weight, bias, seed, eps, dropout_p, *paddings)
    grad_type = word.new_empty(0) if found.token_type is None else found.token_type
    return found.word, found.position, grad_type, found.weight, found.bias


@backward.register_fake
def _(
    grad_y: Tensor,
    input_ids: Tensor,
    position_ids: Tensor,
    token_type_ids: Tensor | None,
    word: Tensor,
    position: Tensor,
    token_type: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    seed: Tensor | None,
    eps: float,
    dropout_p: float,
    padding_idx: int,
    position_padding_idx: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_type = word.new_empty(0) if token_type is None else token_type.new_empty(token_type.shape)
    tables = (word.new_empty(word.shape), position.new_empty(position.shape), grad_type)
    return *tables, weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.eps, ctx.dropout_p, ctx.padding_idx, ctx.position_padding_idx = inputs
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_y: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * 13
    *looked_up, weight, bias, seed, mean, rstd = ctx.saved_tensors
    options = (seed, ctx.eps, ctx.dropout_p, ctx.padding_idx, ctx.position_padding_idx)
    # under create_graph the gradients must themselves be differentiable
    if torch.is_grad_enabled():
        gradients = tuple(pytorch.backward(grad_y, Lookup(*looked_up), weight, bias, *options))
    else:
        gradients = backward(grad_y, *looked_up, weight, bias, mean, rstd, *options)
    grad_word, grad_position, grad_type, grad_weight, grad_bias = gradients
    grad_type = None if looked_up[-1] is None else grad_type
    tables = (None, None, None, grad_word, grad_position, grad_type)
    return (*tables, grad_weight, grad_bias, None, None, None, None, None)


forward.register_autograd(_differentiate, setup_context=_save)
