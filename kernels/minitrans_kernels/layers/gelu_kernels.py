"""GELU of x + bias: tiles of any rows and columns; the backward's programs each walk down a strip of columns."""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
# ruff: noqa: N803

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from minitrans_kernels.layers import launching

# 2 sqrt(2 / pi), sqrt(1 / 2), 1 / sqrt(2 pi), and the cubic term of the tanh form
_TWICE_ROOT = tl.constexpr(1.5957691216057308)
_HALF_ROOT = tl.constexpr(0.7071067811865476)
_DENSITY = tl.constexpr(0.3989422804014327)
_CUBE = tl.constexpr(0.044715)


@triton.jit
def _decay(u):
    """exp(-2 v) of the tanh form, whose gate is a sigmoid: 1/2 (1 + tanh v) = 1 / (1 + exp(-2 v)). Bounded, to stay finite."""
    return tl.exp(tl.minimum((u + u * u * u * _CUBE) * -_TWICE_ROOT, 80.0))


@triton.jit
def _normal_gate(u):
    return 0.5 * (1.0 + tl.erf(u * _HALF_ROOT))


@triton.jit
def forward_kernel(
    x, bias, y, rows, x_stride,
    F: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_D: tl.constexpr, TANH: tl.constexpr,
):  # fmt: skip
    """y (N, F) from x (N, F) with any row stride and bias (F)."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = column < F
    mask = (row < rows)[:, None] & inside[None, :]
    u = tl.load(x + row[:, None] * x_stride + column[None, :], mask, other=0.0).to(tl.float32)
    u += tl.load(bias + column, inside, other=0.0).to(tl.float32)[None, :]
    gate = 1.0 / (1.0 + _decay(u)) if TANH else _normal_gate(u)
    tl.store(y + row[:, None] * F + column[None, :], u * gate, mask)


@triton.jit
def backward_kernel(
    grad_y, x, bias, grad_x, partials, rows, grad_y_stride, x_stride,
    F: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_D: tl.constexpr, TANH: tl.constexpr,
):  # fmt: skip
    """grad_x (N, F) and each program's sum for the bias, partials (P, F)."""
    program = tl.program_id(0)
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = column < F
    shift = tl.load(bias + column, inside, other=0.0).to(tl.float32)[None, :]
    bias_sum = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(program * BLOCK_ROWS, rows, tl.num_programs(0) * BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS).to(tl.int64)
        mask = (row < rows)[:, None] & inside[None, :]
        above = tl.load(grad_y + row[:, None] * grad_y_stride + column[None, :], mask, other=0.0).to(tl.float32)
        u = tl.load(x + row[:, None] * x_stride + column[None, :], mask, other=0.0).to(tl.float32) + shift
        if TANH:
            decay = _decay(u)
            gate = 1.0 / (1.0 + decay)
            # decay * gate is 1 - gate without its cancellation
            slope = gate * (1.0 + u * (u * u * (3.0 * _CUBE) + 1.0) * _TWICE_ROOT * (decay * gate))
        else:
            slope = _normal_gate(u) + u * _DENSITY * tl.exp(-0.5 * u * u)
        result = above * slope
        bias_sum += tl.sum(result, 0)
        tl.store(grad_x + row[:, None] * F + column[None, :], result, mask)
    tl.store(partials + program.to(tl.int64) * F + column, bias_sum, inside)


def forward(x: Tensor, bias: Tensor, approximate: str) -> Tensor:
    """GELU of x (N, F) + bias (F), in the dtype of x."""
    count, width = x.shape
    x = launching.contiguous_rows(x)
    y = x.new_empty((count, width))
    tile = launching.row_tile(min(width, launching.COLUMNS), launching.FORWARD_TILE)
    grid = (triton.cdiv(count, tile["BLOCK_ROWS"]), triton.cdiv(width, tile["BLOCK_D"]))
    with launching.on(x.device):
        forward_kernel[grid](x, bias.contiguous(), y, count, x.stride(0), F=width, TANH=approximate == "tanh", **tile)
    return y


def backward(grad_y: Tensor, x: Tensor, bias: Tensor, approximate: str) -> tuple[Tensor, Tensor]:
    """Gradients of (x, bias)."""
    count, width = x.shape
    grad_y, x = launching.contiguous_rows(grad_y), launching.contiguous_rows(x)
    grad_x, grad_bias = x.new_empty((count, width)), bias.new_empty(width)
    tile = launching.row_tile(min(width, launching.COLUMNS), launching.BACKWARD_TILE)
    strips = triton.cdiv(width, tile["BLOCK_D"])
    programs = triton.cdiv(launching.program_count(x.device, triton.cdiv(count, tile["BLOCK_ROWS"]) * strips), strips)
    partials = x.new_empty((1, programs, width), dtype=torch.float32)
    with launching.on(x.device):
        backward_kernel[(programs, strips)](
            grad_y, x, bias.contiguous(), grad_x, partials, count, grad_y.stride(0), x.stride(0),
            F=width, TANH=approximate == "tanh", **tile, maxnreg=launching.REGISTERS,
        )  # fmt: skip
        launching.sum_partials(partials, grad_bias)
    return grad_x, grad_bias
