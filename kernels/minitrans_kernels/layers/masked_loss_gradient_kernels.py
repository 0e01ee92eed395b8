"""From the gradients of a chunk of logits to those of weight, bias and hidden states, over the labelled rows."""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
# ruff: noqa: N803

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def weight_gradient_kernel(
    grads, bias_parts, hidden, order, count, grad_loss, grad_weight, grad_bias, hidden_stride, vocabulary, begin,
    D: tl.constexpr, CHUNK: tl.constexpr, TILE: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_PARTS: tl.constexpr, HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Rows of grad_weight (V, D) and entries of grad_bias (V) from `begin` on; grads are zero past the count, to a whole TILE."""
    labelled = tl.load(count)
    place = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    feature = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    entry = begin + place.to(tl.int64)
    total = tl.zeros((BLOCK_V, BLOCK_D), tl.float32)
    for first in range(0, labelled, BLOCK_N):
        slot = first + tl.arange(0, BLOCK_N).to(tl.int64)
        row = tl.load(order + slot, slot < labelled, other=0)
        inside = (slot < labelled)[:, None] & (feature < D)[None, :]
        states = tl.load(hidden + row[:, None] * hidden_stride + feature[None, :], inside, other=0.0)
        grad = tl.load(grads + slot[:, None] * CHUNK + place[None, :])
        total = tl.dot(tl.trans(grad), states, total, input_precision=PRECISION)
    scale = tl.load(grad_loss).to(tl.float32) / tl.maximum(labelled, 1).to(tl.float32)
    mask = (entry < vocabulary)[:, None] & (feature < D)[None, :]
    tl.store(grad_weight + entry[:, None] * D + feature[None, :], total * scale, mask)
    if HAS_BIAS:  # noqa: SIM102
        if tl.program_id(1) == 0:
            bias_sum = tl.zeros((BLOCK_PARTS, BLOCK_V), tl.float32)
            parts = tl.cdiv(labelled, TILE)
            for first in range(0, parts, BLOCK_PARTS):
                part = first + tl.arange(0, BLOCK_PARTS).to(tl.int64)
                bias_sum += tl.load(
                    bias_parts + part[:, None] * CHUNK + place[None, :], (part < parts)[:, None], other=0.0
                )
            tl.store(grad_bias + entry, tl.sum(bias_sum, 0) * scale, entry < vocabulary)


@triton.jit
def hidden_gradient_kernel(
    grads, weight, order, count, grad_loss, sums, grad_hidden, weight_stride, vocabulary, begin,
    D: tl.constexpr, CHUNK: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds a chunk of the vocabulary to sums (N, D), by slot; the last chunk writes the total to its rows of grad_hidden."""
    labelled = tl.load(count)
    first = tl.program_id(0) * BLOCK_N
    if first >= labelled:
        return
    slot = first + tl.arange(0, BLOCK_N)
    feature = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    tile = grads + first.to(tl.int64) * CHUNK + tl.arange(0, BLOCK_N)[:, None] * CHUNK
    entries = weight + tl.cast(begin, tl.int64) * weight_stride + feature[None, :]
    total = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for start in range(0, min(CHUNK, vocabulary - begin), BLOCK_V):
        place = start + tl.arange(0, BLOCK_V)
        inside = (begin + place < vocabulary)[:, None]
        if D % BLOCK_D != 0:
            inside = inside & (feature < D)[None, :]
        rows = tl.load(entries + place[:, None] * weight_stride, inside, other=0.0)
        total = tl.dot(tl.load(tile + place[None, :]), rows, total, input_precision=PRECISION)
    mask = (slot < labelled)[:, None] & (feature < D)[None, :]
    kept = sums + first.to(tl.int64) * D + tl.arange(0, BLOCK_N)[:, None] * D + feature[None, :]
    if begin > 0:
        total += tl.load(kept, mask, other=0.0)
    if begin + CHUNK < vocabulary:
        tl.store(kept, total, mask)
    else:
        row = tl.load(order + slot, slot < labelled, other=0)
        scale = tl.load(grad_loss).to(tl.float32) / labelled.to(tl.float32)
        tl.store(grad_hidden + row[:, None] * D + feature[None, :], total * scale, mask)
