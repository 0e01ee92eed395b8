"""`embedding_layer_norm`: what enters the first block of a BERT-like encoder, in one pass over memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minitrans_kernels.layers.arguments import (
    MAX_EMBEDDING_WIDTH,
    check_device,
    check_eps,
    check_floats,
    check_shape,
    check_width,
    checked_seed,
)  # fmt: skip
from minitrans_kernels.layers.fallback import drop, layer_norm, layer_norm_backward, sum_dtype
from minitrans_kernels.registration import operator
from minitrans_kernels.runtime import runs_on_triton

# of words, positions and token types, the last of which may be missing
Three = tuple[Tensor, Tensor, Tensor | None]


def embedding_layer_norm(
    input_ids: Tensor,
    position_ids: Tensor,
    token_type_ids: Tensor | None,
    word: Tensor,
    position: Tensor,
    token_type: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float,
    dropout_p: float = 0.0,
    dropout_seed: int | Tensor | None = None,
    padding_idx: int | None = None,
    position_padding_idx: int | None = None,
) -> Tensor:
    """dropout(LayerNorm(word[input_ids] + token_type[token_type_ids] + position[position_ids])), added in this order.

    Sums and statistics are taken in float32 (float64 for float64), and the sum of the embeddings is never stored.
    Dropout keeps what `dropout_mask((tokens, D), dropout_p, dropout_seed)` keeps, the tokens counted through. Gradients
    are the same bits every time: the tokens of a table row are added up in their order.

    Args:
        input_ids: (...) int64 or int32: (B, T), or (N) of a packed batch. An id that is no row of its table gives NaN on a
            GPU, where finding out would mean waiting, and an IndexError on the CPU.
        position_ids: as input_ids, or of a shape that broadcasts to it, such as (1, T).
        token_type_ids: likewise; None together with token_type.
        word: (V, D); D is at most 4096 on a GPU. The result has its dtype.
        position: (rows, D).
        token_type: (rows, D), or None where the model has no types.
        weight: (D), of the LayerNorm.
        bias: (D).
        eps: added to the variance.
        dropout_p: probability with which an element of the result is dropped.
        dropout_seed: a number, or an int64 tensor of one; required where dropout_p is positive.
        padding_idx: the row of word that gets no gradient.
        position_padding_idx: the row of position that gets no gradient.

    Raises:
        ValueError: for shapes that do not fit, another device, one of the type arguments without the other, a negative eps,
            a dropout_p outside [0, 1) or without a seed, a padding row that is none.
        TypeError: for ids that are not int64 or int32, tables that are not floating point, and float64 on a GPU.

    Devlin et al. 2019, "BERT", figure 2.
    """
    width = check_width("word", word, MAX_EMBEDDING_WIDTH)
    for name, table in (("word", word), ("position", position), ("token_type", token_type)):
        if table is not None and (table.ndim != 2 or table.shape[1] != width):
            raise ValueError(f"{name} must be (rows, {width}), got shape {tuple(table.shape)}")
    if (token_type_ids is None) != (token_type is None):
        raise ValueError("token_type_ids and token_type belong together: give both, or neither")
    check_shape("weight", weight, (width,))
    check_shape("bias", bias, (width,))
    check_floats(word, word=word, position=position, token_type=token_type, weight=weight, bias=bias)
    check_eps(eps)
    seed = checked_seed(dropout_p, dropout_seed, word.device)
    ids = _flat("input_ids", input_ids, input_ids.shape, word)
    positions = _flat("position_ids", position_ids, input_ids.shape, word)
    types = None if token_type_ids is None else _flat("token_type_ids", token_type_ids, input_ids.shape, word)
    paddings = (
        _row("padding_idx", padding_idx, word.shape[0]),
        _row("position_padding_idx", position_padding_idx, position.shape[0]),
    )
    lookup = (ids, positions, types, word, position, token_type)
    y: Tensor = forward(*lookup, weight, bias, seed, eps, dropout_p, *paddings)[0]
    return y.view(*input_ids.shape, width)


def _flat(name: str, ids: Tensor, shape: torch.Size, word: Tensor) -> Tensor:
    if ids.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{name} must be int64 or int32, got {ids.dtype}")
    check_device(word, name, ids)
    try:
        return ids.expand(shape).reshape(-1)
    except RuntimeError as error:
        raise ValueError(f"{name} must broadcast to {tuple(shape)}, got shape {tuple(ids.shape)}") from error


def _row(name: str, index: int | None, rows: int) -> int:
    """The index, or -1 for None."""
    if index is None:
        return -1
    if not 0 <= index < rows:
        raise ValueError(f"{name} must be a row of the table, 0 .. {rows - 1}, got {index}")
    return index


@operator("minitrans_kernels::embedding_layer_norm")
def forward(
    input_ids: Tensor, position_ids: Tensor, token_type_ids: Tensor | None,
    word: Tensor, position: Tensor, token_type: Tensor | None, weight: Tensor, bias: Tensor, seed: Tensor | None,
    eps: float, dropout_p: float, padding_idx: int, position_padding_idx: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(y (N, D), mean (N), rstd (N)) of ids (N); no row is padding where its index is -1."""
    ids, tables = (input_ids, position_ids, token_type_ids), (word, position, token_type)
    if runs_on_triton(word):
        from minitrans_kernels.layers import embedding_kernels

        return embedding_kernels.forward(ids, tables, weight, bias, seed, eps, dropout_p)
    y, mean, rstd = layer_norm(_sum(ids, tables), weight, bias, eps)
    return drop(y, seed, dropout_p).to(word.dtype), mean, rstd


@forward.register_fake
def _(input_ids: Tensor, position_ids: Tensor, token_type_ids: Tensor | None, word: Tensor, *_: Any) -> Any:
    mean = word.new_empty(input_ids.shape[0], dtype=sum_dtype(word.dtype))
    return word.new_empty((input_ids.shape[0], word.shape[1])), mean, torch.empty_like(mean)


@operator("minitrans_kernels::embedding_layer_norm_backward")
def backward(
    grad_y: Tensor, input_ids: Tensor, position_ids: Tensor, token_type_ids: Tensor | None,
    word: Tensor, position: Tensor, token_type: Tensor | None, weight: Tensor, bias: Tensor,
    mean: Tensor, rstd: Tensor, seed: Tensor | None, dropout_p: float, padding_idx: int, position_padding_idx: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of (word, position, token_type, weight, bias), the third (0) where there are no types."""
    ids, tables = (input_ids, position_ids, token_type_ids), (word, position, token_type)
    rest = (weight, bias, mean, rstd, seed, dropout_p, padding_idx, position_padding_idx)
    if runs_on_triton(word):
        from minitrans_kernels.layers import embedding_kernels

        return embedding_kernels.backward(grad_y, ids, tables, *rest)
    return _gradients(grad_y, ids, tables, *rest)


@backward.register_fake
def _(
    grad_y: Tensor, input_ids: Tensor, position_ids: Tensor, token_type_ids: Tensor | None,
    word: Tensor, position: Tensor, token_type: Tensor | None, weight: Tensor, bias: Tensor, *_: Any,
) -> Any:  # fmt: skip
    of_types = word.new_empty(0) if token_type is None else token_type.new_empty(token_type.shape)
    tables = (word.new_empty(word.shape), position.new_empty(position.shape), of_types)
    return *tables, weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _gradients(
    grad_y: Tensor, ids: Three, tables: Three, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor,
    seed: Tensor | None, dropout_p: float, padding_idx: int, position_padding_idx: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As of `backward`, in PyTorch, and differentiable."""
    rows = _sum(ids, tables)
    above = drop(grad_y.to(rows.dtype), seed, dropout_p)
    grad, grad_weight, grad_bias = layer_norm_backward(above, rows, weight, mean, rstd)

    def of_table(ids: Tensor | None, table: Tensor | None, padding_idx: int) -> Tensor:
        if ids is None or table is None:
            return tables[0].new_empty(0)
        kept = grad.masked_fill((ids == padding_idx)[:, None], 0.0)
        # not index_add: on CUDA that one adds in any order
        return grad.new_zeros(table.shape).index_put((ids,), kept, accumulate=True).to(table.dtype)

    paddings = (padding_idx, position_padding_idx, -1)
    of_word, of_position, of_types = (of_table(*given) for given in zip(ids, tables, paddings, strict=True))
    return of_word, of_position, of_types, grad_weight.to(weight.dtype), grad_bias.to(bias.dtype)


def _sum(ids: Three, tables: Three) -> Tensor:
    total = tables[0].index_select(0, ids[0]).to(sum_dtype(tables[0].dtype))
    if tables[2] is not None and ids[2] is not None:
        total = total + tables[2].index_select(0, ids[2])
    return total + tables[1].index_select(0, ids[1])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, seed, _, ctx.dropout_p, ctx.padding_idx, ctx.position_padding_idx = inputs
    ctx.save_for_backward(*tensors, *output[1:], seed)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_y: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * 13
    ids, tables = ctx.saved_tensors[:3], ctx.saved_tensors[3:6]
    rest = (*ctx.saved_tensors[6:], ctx.dropout_p, ctx.padding_idx, ctx.position_padding_idx)
    # under create_graph the gradients must themselves be differentiable
    found = (
        _gradients(grad_y, ids, tables, *rest) if torch.is_grad_enabled() else backward(grad_y, *ids, *tables, *rest)
    )
    of_word, of_position, of_types, *of_vectors = found
    of_tables = (of_word, of_position, None if tables[2] is None else of_types)
    return None, None, None, *of_tables, *of_vectors, None, None, None, None, None


forward.register_autograd(_differentiate, setup_context=_save)
