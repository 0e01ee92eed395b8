"""Allocation and launches of the embedding kernels; arguments and results as in `pytorch`."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from minitrans_kernels.dropout import threshold
from minitrans_kernels.layers.embedding.kernels import backward_kernel, forward_kernel
from minitrans_kernels.layers.embedding.pytorch import Gradients, Lookup
from minitrans_kernels.layers.embedding.table_kernels import chunk_sums_kernel, join_kernel
from minitrans_kernels.layers.launching import (
    BACKWARD_TILE,
    FORWARD_TILE,
    contiguous_rows,
    on,
    program_count,
    register_limit,
    row_tile,
    sum_partials,
)

# tokens of a sorted chunk, heads that are joined at a time, and columns of a strip: one warp, 16 bytes a thread in bfloat16
_CHUNK = 32
_HEADS = 16
_COLUMNS = 256


def forward(
    lookup: Lookup, weight: Tensor, bias: Tensor, seed: Tensor | None, eps: float, dropout_p: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(y (N, D), mean (N), rstd (N))."""
    count, width = lookup.input_ids.shape[0], lookup.word.shape[1]
    y = lookup.word.new_empty((count, width))
    mean = y.new_empty(count, dtype=torch.float32)
    rstd = torch.empty_like(mean)
    rows, columns, warps = row_tile(width, FORWARD_TILE)
    with on(y.device):
        forward_kernel[(triton.cdiv(count, rows),)](
            *_pointers(lookup),
            weight.contiguous(),
            bias.contiguous(),
            mean if seed is None else seed,
            y,
            mean,
            rstd,
            count,
            *_table_rows(lookup),
            eps,
            threshold(dropout_p),
            1.0 / (1.0 - dropout_p),
            D=width,
            BLOCK_ROWS=rows,
            BLOCK_D=columns,
            HAS_TYPE=lookup.token_type is not None,
            DROPOUT=seed is not None,
            num_warps=warps,
        )
    return y, mean, rstd


def backward(
    grad_y: Tensor,
    lookup: Lookup,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    seed: Tensor | None,
    dropout_p: float,
    padding_idx: int,
    position_padding_idx: int,
) -> Gradients:
    """Gradients of all that is looked up; the rows padding_idx and position_padding_idx, where they exist, get none."""
    count, width = grad_y.shape
    grad_y = contiguous_rows(grad_y)
    grad_sum = grad_y.new_empty((count, width))
    grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
    grad_bias = torch.empty_like(bias, memory_format=torch.contiguous_format)
    rows, columns, warps = row_tile(width, BACKWARD_TILE)
    programs = program_count(grad_y.device, triton.cdiv(count, rows))
    partials = grad_y.new_empty((2, programs, width), dtype=torch.float32)
    with on(grad_y.device):
        backward_kernel[(programs,)](
            grad_y,
            *_pointers(lookup),
            weight.contiguous(),
            mean,
            rstd,
            mean if seed is None else seed,
            grad_sum,
            partials,
            count,
            *_table_rows(lookup),
            grad_y.stride(0),
            threshold(dropout_p),
            1.0 / (1.0 - dropout_p),
            D=width,
            BLOCK_ROWS=rows,
            BLOCK_D=columns,
            HAS_TYPE=lookup.token_type is not None,
            DROPOUT=seed is not None,
            num_warps=warps,
            maxnreg=register_limit(warps),
        )
        sum_partials(partials, grad_weight, grad_bias)
        grad_type = None
        if lookup.token_type is not None and lookup.token_type_ids is not None:
            grad_type = _table_gradient(grad_sum, lookup.token_type_ids, lookup.token_type, -1)
        return Gradients(
            _table_gradient(grad_sum, lookup.input_ids, lookup.word, padding_idx),
            _table_gradient(grad_sum, lookup.position_ids, lookup.position, position_padding_idx),
            grad_type,
            grad_weight,
            grad_bias,
        )


def _table_gradient(grad: Tensor, ids: Tensor, table: Tensor, padding_idx: int) -> Tensor:
    """Sum of grad (N, D) over the tokens of each row of the table, in the order of the tokens."""
    count, width = grad.shape
    sorted_ids, order = torch.sort(ids, stable=True)
    chunks = triton.cdiv(count, _CHUNK)
    grad_table = torch.zeros_like(table, memory_format=torch.contiguous_format)
    heads = grad.new_empty((chunks, width), dtype=torch.float32)
    tails = torch.empty_like(heads)
    columns = min(_COLUMNS, triton.next_power_of_2(width))
    grid = (chunks, triton.cdiv(width, columns))
    shared = (count, table.shape[0], padding_idx)
    chunk_sums_kernel[grid](
        grad, order, sorted_ids, grad_table, heads, tails, *shared, D=width, CHUNK=_CHUNK, BLOCK_D=columns, num_warps=1
    )
    join_kernel[grid](
        sorted_ids,
        grad_table,
        heads,
        tails,
        *shared,
        D=width,
        CHUNK=_CHUNK,
        BLOCK_CHUNKS=_HEADS,
        BLOCK_D=columns,
        num_warps=4,
    )
    return grad_table


def _pointers(lookup: Lookup) -> tuple[Tensor, ...]:
    types = lookup.input_ids if lookup.token_type_ids is None else lookup.token_type_ids
    token_type = lookup.word if lookup.token_type is None else lookup.token_type
    ids = (lookup.input_ids, lookup.position_ids, types)
    return tuple(tensor.contiguous() for tensor in (*ids, lookup.word, lookup.position, token_type))


def _table_rows(lookup: Lookup) -> tuple[int, int, int]:
    types = 0 if lookup.token_type is None else lookup.token_type.shape[0]
    return lookup.word.shape[0], lookup.position.shape[0], types
