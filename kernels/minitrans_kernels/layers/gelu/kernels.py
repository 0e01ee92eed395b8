"""GELU of x + bias: tiles of any rows and columns; the backward's programs each walk down a strip of columns."""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
# ruff: noqa: N803

from __future__ import annotations

import triton
import triton.language as tl

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
    x,
    bias,
    y,
    rows,
    x_stride,
    F: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_F: tl.constexpr,
    TANH: tl.constexpr,
):
    """y (N, F) from x (N, F) with any row stride and bias (F)."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    inside = column < F
    mask = (row < rows)[:, None] & inside[None, :]
    u = tl.load(x + row[:, None] * x_stride + column[None, :], mask, other=0.0).to(tl.float32)
    u += tl.load(bias + column, inside, other=0.0).to(tl.float32)[None, :]
    gate = 1.0 / (1.0 + _decay(u)) if TANH else _normal_gate(u)
    tl.store(y + row[:, None] * F + column[None, :], u * gate, mask)


@triton.jit
def backward_kernel(
    grad_y,
    x,
    bias,
    grad_x,
    partials,
    rows,
    grad_y_stride,
    x_stride,
    F: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_F: tl.constexpr,
    TANH: tl.constexpr,
):
    """grad_x (N, F) and each program's sum for the bias, partials (P, F)."""
    program = tl.program_id(0)
    column = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    inside = column < F
    shift = tl.load(bias + column, inside, other=0.0).to(tl.float32)[None, :]
    bias_sum = tl.zeros((BLOCK_F,), tl.float32)
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
