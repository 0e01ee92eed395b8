"""FlashAttention-2 in plain Triton, as one would write it after reading the paper: the baseline that tuned kernels must beat.

Dense only: no mask, no bias, no dropout; head widths that are powers of two. Algorithms 1 and 2 of Dao 2023, "FlashAttention-2:
Faster Attention with Better Parallelism and Work Partitioning", the backward split in two kernels, so that nothing is added
atomically. Tiles and stages are the same on every device.
"""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_LOG2_E = math.log2(math.e)


@triton.jit
def _forward(q, k, v, out, lse, scale_log2, length, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # noqa: N803
    base = tl.program_id(1).to(tl.int64) * length * WIDTH
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, WIDTH)
    queries = tl.load(q + base + i[:, None] * WIDTH + d, mask=i[:, None] < length, other=0.0)
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    gathered = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(0, length, COLUMNS):
        j = start + tl.arange(0, COLUMNS)
        keys = tl.load(k + base + j * WIDTH + d[:, None], mask=j < length, other=0.0)  # (WIDTH, COLUMNS)
        scores = tl.dot(queries, keys, input_precision="ieee") * scale_log2
        scores = tl.where(j < length, scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        p = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(highest - higher)
        values = tl.load(v + base + j[:, None] * WIDTH + d, mask=j[:, None] < length, other=0.0)
        gathered = tl.dot(p.to(values.dtype), values, gathered * shrink[:, None], input_precision="ieee")
        total = total * shrink + tl.sum(p, 1)
        highest = higher
    result = gathered / total[:, None]
    tl.store(out + base + i[:, None] * WIDTH + d, result.to(out.dtype.element_ty), mask=i[:, None] < length)
    tl.store(lse + tl.program_id(1).to(tl.int64) * length + i, highest + tl.log2(total), mask=i < length)


@triton.jit
def _key_gradients(
    q, k, v, grad, lse, delta, grad_k, grad_v, scale, scale_log2, length,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,  # noqa: N803
):  # fmt: skip
    row_base = tl.program_id(1).to(tl.int64) * length
    base = row_base * WIDTH
    j = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    d = tl.arange(0, WIDTH)
    place = base + j[:, None] * WIDTH + d
    inside = j[:, None] < length
    keys, values = tl.load(k + place, mask=inside, other=0.0), tl.load(v + place, mask=inside, other=0.0)
    dk = tl.zeros((COLUMNS, WIDTH), tl.float32)
    dv = tl.zeros((COLUMNS, WIDTH), tl.float32)
    for start in range(0, length, ROWS):
        i = start + tl.arange(0, ROWS)
        queries = tl.load(q + base + i[:, None] * WIDTH + d, mask=i[:, None] < length, other=0.0)
        grads = tl.load(grad + base + i[:, None] * WIDTH + d, mask=i[:, None] < length, other=0.0)
        # beyond the end the log-sum-exp is infinite, so that the probabilities there are zero
        rows_lse = tl.load(lse + row_base + i, mask=i < length, other=float("inf"))
        rows_delta = tl.load(delta + row_base + i, mask=i < length, other=0.0)
        scores = tl.dot(keys, tl.trans(queries), input_precision="ieee")  # (COLUMNS, ROWS)
        p = tl.exp2(scores * scale_log2 - rows_lse)
        dv = tl.dot(p.to(grads.dtype), grads, dv, input_precision="ieee")
        dp = tl.dot(values, tl.trans(grads), input_precision="ieee")
        ds = p * (dp - rows_delta)
        dk = tl.dot(ds.to(queries.dtype), queries, dk, input_precision="ieee")
    tl.store(grad_k + place, (dk * scale).to(grad_k.dtype.element_ty), mask=inside)
    tl.store(grad_v + place, dv.to(grad_v.dtype.element_ty), mask=inside)


@triton.jit
def _query_gradients(
    q, k, v, grad, lse, delta, grad_q, scale, scale_log2, length,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,  # noqa: N803
):  # fmt: skip
    row_base = tl.program_id(1).to(tl.int64) * length
    base = row_base * WIDTH
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, WIDTH)
    place = base + i[:, None] * WIDTH + d
    inside = i[:, None] < length
    queries, grads = tl.load(q + place, mask=inside, other=0.0), tl.load(grad + place, mask=inside, other=0.0)
    rows_lse = tl.load(lse + row_base + i, mask=i < length, other=float("inf"))
    rows_delta = tl.load(delta + row_base + i, mask=i < length, other=0.0)
    dq = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(0, length, COLUMNS):
        j = start + tl.arange(0, COLUMNS)
        keys = tl.load(k + base + j[:, None] * WIDTH + d, mask=j[:, None] < length, other=0.0)
        values = tl.load(v + base + j * WIDTH + d[:, None], mask=j < length, other=0.0)  # (WIDTH, COLUMNS)
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale_log2
        p = tl.exp2(tl.where(j < length, scores, float("-inf")) - rows_lse[:, None])
        dp = tl.dot(grads, values, input_precision="ieee")
        ds = p * (dp - rows_delta[:, None])
        dq = tl.dot(ds.to(keys.dtype), keys, dq, input_precision="ieee")
    tl.store(grad_q + place, (dq * scale).to(grad_q.dtype.element_ty), mask=inside)


class _PlainAttention(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, length, width = query.shape
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        out = torch.empty_like(query)
        lse = torch.empty(batch, heads, length, dtype=torch.float32, device=query.device)  # to base 2
        tiles = {"WIDTH": width, "ROWS": 128, "COLUMNS": 64}
        grid = (triton.cdiv(length, tiles["ROWS"]), batch * heads)
        scale_log2 = width**-0.5 * _LOG2_E
        warps = 4 if width <= 64 else 8
        _forward[grid](query, key, value, out, lse, scale_log2, length, **tiles, num_warps=warps, num_stages=3)
        context.save_for_backward(query, key, value, out, lse)
        return out

    @staticmethod
    def backward(context: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, out, lse = context.saved_tensors
        batch, heads, length, width = query.shape
        grad = grads[0].contiguous()
        delta = (grad * out).sum(-1, dtype=torch.float32)  # (B, H, T)
        grad_q, grad_k, grad_v = (torch.empty_like(tensor) for tensor in (query, key, value))
        scale = width**-0.5
        shared = (query, key, value, grad, lse, delta)
        grid = (triton.cdiv(length, 128), batch * heads)
        rows = 64 if width <= 64 else 32  # more would not fit the registers
        _key_gradients[grid](
            *shared, grad_k, grad_v, scale, scale * _LOG2_E, length,
            WIDTH=width, ROWS=rows, COLUMNS=128, num_warps=8, num_stages=2,
        )  # fmt: skip
        warps = 4 if width <= 64 else 8
        _query_gradients[grid](
            *shared, grad_q, scale, scale * _LOG2_E, length,
            WIDTH=width, ROWS=128, COLUMNS=64, num_warps=warps, num_stages=2,
        )  # fmt: skip
        return grad_q, grad_k, grad_v


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(B, H, T, K) each, K a power of two of at least 16 -> (B, H, T, K), scaled by K ** -0.5."""
    out: Tensor = _PlainAttention.apply(query, key, value)
    return out
