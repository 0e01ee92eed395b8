"""Look up, sum, normalise, drop; and the sums over the tokens of each table row, without atomics."""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
# ruff: noqa: N803

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from minitrans_kernels.dropout import threshold
from minitrans_kernels.dropout_kernel import column_keys
from minitrans_kernels.layers import launching
from minitrans_kernels.layers.embedding_table_kernels import table_gradient
from minitrans_kernels.layers.row_kernels import backward_of_normalise, drop, normalise, normalised_again

# of words, positions and token types, the last of which may be missing
Three = tuple[Tensor, Tensor, Tensor | None]


@triton.jit
def _look_up(table, ids, row, rows, table_rows, column, D: tl.constexpr):
    """Rows `ids[row]` of a table as float32; NaN for an id that is no row, so that it cannot pass unseen."""
    index = tl.load(ids + row, row < rows, other=0).to(tl.int64)[:, None]
    exists = (index >= 0) & (index < table_rows)
    value = tl.load(table + index * D + column[None, :], exists & (column < D)[None, :], other=0.0).to(tl.float32)
    return tl.where(exists, value, float("nan"))


@triton.jit
def _sum_of_tables(
    word, position, token_type, input_ids, position_ids, token_type_ids, word_rows, position_rows, type_rows,
    row, rows, column, D: tl.constexpr, HAS_TYPE: tl.constexpr,
):  # fmt: skip
    total = _look_up(word, input_ids, row, rows, word_rows, column, D)
    if HAS_TYPE:
        total += _look_up(token_type, token_type_ids, row, rows, type_rows, column, D)
    return total + _look_up(position, position_ids, row, rows, position_rows, column, D)


@triton.jit
def forward_kernel(
    input_ids, position_ids, token_type_ids, word, position, token_type, weight, bias, seed, y, mean, rstd,
    rows, word_rows, position_rows, type_rows, eps, threshold, scale,
    D: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_D: tl.constexpr, HAS_TYPE: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """y (N, D), mean and rstd (N) of the tokens."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.arange(0, BLOCK_D)
    inside = column < D
    total = _sum_of_tables(
        word, position, token_type, input_ids, position_ids, token_type_ids, word_rows, position_rows, type_rows,
        row, rows, column, D, HAS_TYPE,
    )  # fmt: skip
    normal, centre, inverse = normalise(total, inside, eps, D)
    result = normal * tl.load(weight + column, inside, other=0.0).to(tl.float32)[None, :]
    result += tl.load(bias + column, inside, other=0.0).to(tl.float32)[None, :]
    if DROPOUT:
        number = tl.load(seed)
        result = drop(result, number, row, column_keys(number, 0, column)[None, :], threshold, scale)
    tl.store(y + row[:, None] * D + column[None, :], result, (row < rows)[:, None] & inside[None, :])
    tl.store(mean + row, centre, row < rows)
    tl.store(rstd + row, inverse, row < rows)


@triton.jit
def backward_kernel(
    grad_y, input_ids, position_ids, token_type_ids, word, position, token_type, weight, mean, rstd, seed,
    grad_sum, partials, rows, word_rows, position_rows, type_rows, grad_y_stride, threshold, scale,
    D: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_D: tl.constexpr, HAS_TYPE: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """grad_sum (N, D), of the sum of the tables, and each program's sums for weight and bias, partials (2, P, D)."""
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    column = tl.arange(0, BLOCK_D)
    inside = column < D
    weight_sum = tl.zeros((BLOCK_D,), tl.float32)
    bias_sum = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(program * BLOCK_ROWS, rows, programs * BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS).to(tl.int64)
        mask = (row < rows)[:, None] & inside[None, :]
        above = tl.load(grad_y + row[:, None] * grad_y_stride + column[None, :], mask, other=0.0).to(tl.float32)
        if DROPOUT:
            number = tl.load(seed)
            # drawn for every tile anew: a loop that holds the keys runs out of registers
            above = drop(above, number, row, column_keys(number, 0, column)[None, :], threshold, scale)
        total = _sum_of_tables(
            word, position, token_type, input_ids, position_ids, token_type_ids, word_rows, position_rows, type_rows,
            row, rows, column, D, HAS_TYPE,
        )  # fmt: skip
        normal, inverse = normalised_again(total, mean, rstd, row, rows, mask)
        weight_sum += tl.sum(above * normal, 0)
        bias_sum += tl.sum(above, 0)
        # read for every tile again, from the cache: one tensor less to hold over the loop
        gain = tl.load(weight + column, inside, other=0.0).to(tl.float32)[None, :]
        result = backward_of_normalise(above * gain, normal, inverse, D)
        tl.store(grad_sum + row[:, None] * D + column[None, :], result, mask)
    tl.store(partials + program.to(tl.int64) * D + column, weight_sum, inside)
    tl.store(partials + (programs + program).to(tl.int64) * D + column, bias_sum, inside)


def forward(
    ids: Three, tables: Three, weight: Tensor, bias: Tensor, seed: Tensor | None, eps: float, dropout_p: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(y (N, D), mean (N), rstd (N)) of ids (N) in tables (rows, D)."""
    count, width = ids[0].shape[0], tables[0].shape[1]
    y = tables[0].new_empty((count, width))
    mean, rstd = y.new_empty(count, dtype=torch.float32), y.new_empty(count, dtype=torch.float32)
    tile = launching.row_tile(width, launching.FORWARD_TILE)
    with launching.on(y.device):
        forward_kernel[(triton.cdiv(count, tile["BLOCK_ROWS"]),)](
            *_pointers(ids, tables), weight.contiguous(), bias.contiguous(), mean if seed is None else seed, y, mean,
            rstd, count, *_table_rows(tables), eps, threshold(dropout_p), 1.0 / (1.0 - dropout_p),
            D=width, HAS_TYPE=tables[2] is not None, DROPOUT=seed is not None, **tile,
        )  # fmt: skip
    return y, mean, rstd


def backward(
    grad_y: Tensor, ids: Three, tables: Three, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor,
    seed: Tensor | None, dropout_p: float, padding_idx: int, position_padding_idx: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of (word, position, token_type, weight, bias), the third (0) where there are no types."""
    count, width = grad_y.shape
    grad_y = launching.contiguous_rows(grad_y)
    grad_sum = grad_y.new_empty((count, width))
    grad_weight, grad_bias = weight.new_empty(width), bias.new_empty(width)
    tile = launching.row_tile(width, launching.BACKWARD_TILE)
    programs = launching.program_count(grad_y.device, triton.cdiv(count, tile["BLOCK_ROWS"]))
    partials = grad_y.new_empty((2, programs, width), dtype=torch.float32)
    with launching.on(grad_y.device):
        backward_kernel[(programs,)](
            grad_y, *_pointers(ids, tables), weight.contiguous(), mean, rstd, mean if seed is None else seed,
            grad_sum, partials, count, *_table_rows(tables), grad_y.stride(0),
            threshold(dropout_p), 1.0 / (1.0 - dropout_p),
            D=width, HAS_TYPE=tables[2] is not None, DROPOUT=seed is not None,
            **tile, maxnreg=launching.register_limit(tile["num_warps"]),
        )  # fmt: skip
        launching.sum_partials(partials, grad_weight, grad_bias)
        of_types = tables[0].new_empty(0)
        if ids[2] is not None and tables[2] is not None:
            of_types = table_gradient(grad_sum, ids[2], tables[2], -1)
        of_word = table_gradient(grad_sum, ids[0], tables[0], padding_idx)
        of_position = table_gradient(grad_sum, ids[1], tables[1], position_padding_idx)
    return of_word, of_position, of_types, grad_weight, grad_bias


def _pointers(ids: Three, tables: Three) -> list[Tensor]:
    """What there is, in the order of the kernels; where there are no types they get words, which they do not look at."""
    given = zip((*ids, *tables), (*ids[:2], ids[0], *tables[:2], tables[0]), strict=True)
    return [(other if tensor is None else tensor).contiguous() for tensor, other in given]


def _table_rows(tables: Three) -> list[int]:
    return [0 if table is None else table.shape[0] for table in tables]
