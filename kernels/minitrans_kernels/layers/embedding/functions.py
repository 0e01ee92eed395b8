"""`embedding_layer_norm`: what enters the first block of a BERT-like encoder, in one pass over memory."""

from __future__ import annotations

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
)
from minitrans_kernels.layers.embedding import operators


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
    y: Tensor = operators.forward(*lookup, weight, bias, seed, eps, dropout_p, *paddings)[0]
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
