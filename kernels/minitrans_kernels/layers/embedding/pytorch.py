"""Embeddings summed and normalised, and their backward, in plain PyTorch, each differentiable; arguments as in `launch`."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from minitrans_kernels.layers.rows import backward_of_normalise, drop, normalise, sum_dtype


class Lookup(NamedTuple):
    """What is looked up: ids (N) in tables (rows, D); types may be missing, both of them."""

    input_ids: Tensor
    position_ids: Tensor
    token_type_ids: Tensor | None
    word: Tensor
    position: Tensor
    token_type: Tensor | None


class Gradients(NamedTuple):
    """Gradients of the tables, of weight and of bias; None where there is no such table."""

    word: Tensor
    position: Tensor
    token_type: Tensor | None
    weight: Tensor
    bias: Tensor


def forward(
    lookup: Lookup, weight: Tensor, bias: Tensor, seed: Tensor | None, eps: float, dropout_p: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(y (N, D), mean (N), rstd (N))."""
    normal, mean, rstd = normalise(_sum(lookup), eps)
    y = drop(normal * weight + bias, seed, dropout_p)
    return y.to(lookup.word.dtype), mean[:, 0], rstd[:, 0]


def backward(
    grad_y: Tensor,
    lookup: Lookup,
    weight: Tensor,
    bias: Tensor,
    seed: Tensor | None,
    eps: float,
    dropout_p: float,
    padding_idx: int,
    position_padding_idx: int,
) -> Gradients:
    """Gradients of all that is looked up; the rows padding_idx and position_padding_idx, where they exist, get none."""
    total = _sum(lookup)
    above = drop(grad_y.to(total.dtype), seed, dropout_p)
    normal, _, rstd = normalise(total, eps)
    grad = backward_of_normalise(above * weight, normal, rstd)
    grad_type = None
    if lookup.token_type is not None and lookup.token_type_ids is not None:
        grad_type = _table_gradient(grad, lookup.token_type_ids, lookup.token_type, -1)
    return Gradients(
        _table_gradient(grad, lookup.input_ids, lookup.word, padding_idx),
        _table_gradient(grad, lookup.position_ids, lookup.position, position_padding_idx),
        grad_type,
        (above * normal).sum(0).to(weight.dtype),
        above.sum(0).to(bias.dtype),
    )


def _sum(lookup: Lookup) -> Tensor:
    dtype = sum_dtype(lookup.word.dtype)
    total = lookup.word.index_select(0, lookup.input_ids).to(dtype)
    if lookup.token_type is not None and lookup.token_type_ids is not None:
        total = total + lookup.token_type.index_select(0, lookup.token_type_ids)
    return total + lookup.position.index_select(0, lookup.position_ids)


def _table_gradient(grad: Tensor, ids: Tensor, table: Tensor, padding_idx: int) -> Tensor:
    grad = grad.masked_fill((ids == padding_idx)[:, None], 0.0)
    # not index_add: on CUDA that one adds in any order
    return grad.new_zeros(table.shape).index_put((ids,), grad, accumulate=True).to(table.dtype)
