"""Cross entropy of hidden · weightᵀ + bias over the labelled rows, the logits living in one tile at a time.

Every kernel takes `order` and `count`: rows order[0 .. count - 1] are the labelled ones, slot i being row order[i]. The
count is on the device, so the grid covers all N rows and programs beyond the count end at once.
"""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
# ruff: noqa: N803

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from minitrans_kernels.layers import launching
from minitrans_kernels.layers.masked_loss_gradient_kernels import hidden_gradient_kernel, weight_gradient_kernel

# vocabulary entries that one program of the forward walks over, and whose gradients the backward stores at a time
_SPLIT = 2048
_CHUNK = 4096
_JOIN = 128
_ALIGNMENT = 16


@triton.jit
def _part(pointers, inside, WHOLE: tl.constexpr):
    """A tile, without a mask where it is whole."""
    if WHOLE:
        return tl.load(pointers)
    return tl.load(pointers, inside, other=0.0)


@triton.jit
def _logits(
    hidden, weight, bias, row, first, width, hidden_stride, weight_stride, vocabulary,
    BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, WHOLE: tl.constexpr, HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Logits (BLOCK_N, BLOCK_V) of hidden rows `row` and vocabulary entries from `first` on; -inf beyond the vocabulary."""
    place = tl.arange(0, BLOCK_V)
    existing = tl.minimum(place, vocabulary - 1 - first)
    states = hidden + row[:, None] * hidden_stride
    entries = weight + tl.cast(first, tl.int64) * weight_stride + existing[:, None] * weight_stride
    logits = tl.zeros((BLOCK_N, BLOCK_V), tl.float32)
    if HAS_BIAS:
        # first and not last, when every other register is taken
        logits += tl.load(bias + first + existing).to(tl.float32)[None, :]
    for start in range(0, width, BLOCK_D):
        feature = start + tl.arange(0, BLOCK_D)[None, :]
        left = _part(states + feature, feature < width, WHOLE)
        right = _part(entries + feature, feature < width, WHOLE)
        logits = tl.dot(left, tl.trans(right), logits, input_precision=PRECISION)
    return tl.where((first + place < vocabulary)[None, :], logits, float("-inf"))


@triton.jit
def partial_lse_kernel(
    hidden, labels, weight, bias, order, count, maxima, sums, targets,
    rows, width, hidden_stride, weight_stride, vocabulary, SPLIT: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, WHOLE: tl.constexpr, HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Over one split of the vocabulary and for each slot: the largest logit, the sum of exponentials, the label's logit.

    maxima, sums and targets are (splits, N), by slot.
    """
    labelled = tl.load(count)
    first = tl.program_id(0) * BLOCK_N
    if first >= labelled:
        return
    split = tl.program_id(1)
    slot = first + tl.arange(0, BLOCK_N)
    row = tl.load(order + slot, slot < labelled, other=0)
    label = tl.load(labels + row)
    largest = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    target = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(split * SPLIT, min((split + 1) * SPLIT, vocabulary), BLOCK_V):
        column = start + tl.arange(0, BLOCK_V)
        logits = _logits(
            hidden, weight, bias, row, start, width, hidden_stride, weight_stride, vocabulary,
            BLOCK_N, BLOCK_V, BLOCK_D, WHOLE, HAS_BIAS, PRECISION,
        )  # fmt: skip
        target += tl.sum(tl.where(column[None, :] == label[:, None], logits, 0.0), 1)
        larger = tl.maximum(largest, tl.max(logits, 1))
        # a bias of -inf can exclude all of a tile
        base = tl.where(larger == float("-inf"), 0.0, larger)
        total = total * tl.exp(largest - base)
        total += tl.sum(tl.exp(logits - base[:, None]), 1)
        largest = larger
    place = split.to(tl.int64) * rows + slot
    tl.store(maxima + place, largest, slot < labelled)
    tl.store(sums + place, total, slot < labelled)
    tl.store(targets + place, target, slot < labelled)


@triton.jit
def join_lse_kernel(
    labels, order, count, maxima, sums, targets, statistics, losses, rows, splits, vocabulary, BLOCK_N: tl.constexpr
):
    """statistics (2, N), largest logit and sum of exponentials, and losses (N), by slot, from those of the splits.

    Losses are zero beyond the count. Where a label does not exist, loss and statistics are NaN.
    """
    labelled = tl.load(count)
    slot = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    there = slot < labelled
    largest = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    for split in range(splits):
        largest = tl.maximum(largest, tl.load(maxima + split * rows + slot, there, other=0.0))
    total = tl.zeros((BLOCK_N,), tl.float32)
    target = tl.zeros((BLOCK_N,), tl.float32)
    for split in range(splits):
        place = split * rows + slot
        factor = tl.exp(tl.load(maxima + place, there, other=0.0) - largest)
        total += tl.load(sums + place, there, other=1.0) * factor
        target += tl.load(targets + place, there, other=0.0)
    label = tl.load(labels + tl.load(order + slot, there, other=0), there, other=0)
    total = tl.where((label >= 0) & (label < vocabulary), total, float("nan"))
    tl.store(statistics + slot, largest, slot < rows)
    tl.store(statistics + rows + slot, total, slot < rows)
    tl.store(losses + slot, tl.where(there, tl.log(total) + (largest - target), 0.0), slot < rows)


@triton.jit
def logit_gradients_kernel(
    hidden, labels, weight, bias, order, count, statistics, grads, bias_parts,
    rows, width, hidden_stride, weight_stride, vocabulary, begin, CHUNK: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, WHOLE: tl.constexpr, HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Probability less one-hot label, of the vocabulary from `begin` on: grads (whole tiles of slots, CHUNK), zeros elsewhere.

    bias_parts (tiles of slots, CHUNK) holds their sums over each tile of slots. The factor grad / count comes later, in
    float32: here it would send small probabilities below the least float16.
    """
    labelled = tl.load(count)
    first = tl.program_id(0) * BLOCK_N
    if first >= labelled:
        return
    slot = first + tl.arange(0, BLOCK_N)
    first_place = tl.program_id(1) * BLOCK_V
    place = first_place + tl.arange(0, BLOCK_V)
    column = begin + place
    row = tl.load(order + slot, slot < labelled, other=0)
    logits = _logits(
        hidden, weight, bias, row, begin + first_place, width, hidden_stride, weight_stride, vocabulary,
        BLOCK_N, BLOCK_V, BLOCK_D, WHOLE, HAS_BIAS, PRECISION,
    )  # fmt: skip
    largest = tl.load(statistics + slot, slot < labelled, other=0.0)
    total = tl.load(statistics + rows + slot, slot < labelled, other=1.0)
    # not from the log-sum-exp: its rounding would show wherever one entry has almost all of the probability
    grad = tl.exp(logits - largest[:, None]) * (1.0 / total)[:, None]
    grad -= (column[None, :] == tl.load(labels + row)[:, None]).to(tl.float32)
    grad = tl.where((slot < labelled)[:, None] & (column < vocabulary)[None, :], grad, 0.0)
    tile = grads + first.to(tl.int64) * CHUNK
    tl.store(tile + tl.arange(0, BLOCK_N)[:, None] * CHUNK + place[None, :], grad.to(grads.dtype.element_ty))
    if HAS_BIAS:
        tl.store(bias_parts + tl.program_id(0).to(tl.int64) * CHUNK + place, tl.sum(grad, 0))


def forward(
    hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, order: Tensor, count: Tensor
) -> tuple[Tensor, Tensor]:
    """(mean loss, largest logit and sum of exponentials (2, N)), without a look at the count."""
    rows, vocabulary = hidden.shape[0], weight.shape[0]
    hidden, weight, labels = _aligned(hidden), _aligned(weight), labels.contiguous()
    splits = triton.cdiv(vocabulary, _SPLIT)
    maxima, sums, targets = (hidden.new_empty((splits, rows), dtype=torch.float32) for _ in range(3))
    statistics = hidden.new_empty((2, rows), dtype=torch.float32)
    losses = hidden.new_empty(rows, dtype=torch.float32)
    outer, inner, options = _tile(hidden)
    with launching.on(hidden.device):
        partial_lse_kernel[(triton.cdiv(rows, outer), splits)](
            hidden, labels, weight, weight if bias is None else bias.contiguous(), order, count, maxima, sums, targets,
            rows, hidden.shape[1], hidden.stride(0), weight.stride(0), vocabulary,
            SPLIT=_SPLIT, BLOCK_N=outer, BLOCK_V=outer, BLOCK_D=inner, WHOLE=hidden.shape[1] % inner == 0,
            HAS_BIAS=bias is not None, **options,
        )  # fmt: skip
        join_lse_kernel[(triton.cdiv(rows, _JOIN),)](
            labels, order, count, maxima, sums, targets, statistics, losses, rows, splits, vocabulary,
            BLOCK_N=_JOIN, num_warps=4,
        )  # fmt: skip
    return losses.sum() / count, statistics


def backward(
    grad_loss: Tensor, hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, order: Tensor,
    count: Tensor, statistics: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of (hidden, weight, bias), zeros where nothing is labelled; the last (0) without a bias."""
    (rows, width), vocabulary = hidden.shape, weight.shape[0]
    hidden, weight, labels = _aligned(hidden), _aligned(weight), labels.contiguous()
    outer, inner, options = _tile(hidden)
    tiles, strips = triton.cdiv(rows, outer), triton.cdiv(width, outer)
    grads = hidden.new_empty((tiles * outer, _CHUNK))
    bias_parts = hidden.new_empty((tiles, _CHUNK), dtype=torch.float32)
    sums = hidden.new_empty((rows if vocabulary > _CHUNK else 0, width), dtype=torch.float32)
    grad_hidden, grad_weight = hidden.new_zeros((rows, width)), weight.new_empty((vocabulary, width))
    grad_bias = weight.new_empty(0) if bias is None else bias.new_empty(vocabulary)
    has_bias = bias is not None
    with launching.on(hidden.device):
        for begin in range(0, vocabulary, _CHUNK):
            blocks = triton.cdiv(min(_CHUNK, vocabulary - begin), outer)
            logit_gradients_kernel[(tiles, blocks)](
                hidden, labels, weight, weight if bias is None else bias.contiguous(), order, count, statistics, grads,
                bias_parts, rows, hidden.shape[1], hidden.stride(0), weight.stride(0), vocabulary, begin, CHUNK=_CHUNK,
                BLOCK_N=outer, BLOCK_V=outer, BLOCK_D=inner, WHOLE=hidden.shape[1] % inner == 0, HAS_BIAS=has_bias,
                **options,
            )  # fmt: skip
            weight_gradient_kernel[(blocks, strips)](
                grads, bias_parts, hidden, order, count, grad_loss, grad_weight, grad_bias if has_bias else grad_weight,
                hidden.stride(0), vocabulary, begin, D=width, CHUNK=_CHUNK, TILE=outer,
                BLOCK_V=outer, BLOCK_D=outer, BLOCK_N=inner, BLOCK_PARTS=16, HAS_BIAS=has_bias, **options,
            )  # fmt: skip
            hidden_gradient_kernel[(tiles, strips)](
                grads, weight, order, count, grad_loss, sums, grad_hidden, weight.stride(0), vocabulary, begin,
                D=width, CHUNK=_CHUNK, BLOCK_N=outer, BLOCK_D=outer, BLOCK_V=inner, **options,
            )  # fmt: skip
    return grad_hidden, grad_weight, grad_bias


def _aligned(rows: Tensor) -> Tensor:
    """The rows with dense elements and a stride that Triton can load from in whole vectors: zeros fill a width like 312."""
    short = -rows.shape[1] % _ALIGNMENT
    return F.pad(rows, (0, short)) if short else launching.contiguous_rows(rows)


def _tile(hidden: Tensor) -> tuple[int, int, dict[str, Any]]:
    """Edges of a product's tile, the two outer ones and the inner one, and how it is compiled.

    float32 is multiplied as it is, unless PyTorch was told that less will do.
    """
    precision = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    if hidden.dtype == torch.float32:
        return 64, 32, {"PRECISION": precision, "num_warps": 4, "num_stages": 2}
    return 128, 64, {"PRECISION": precision, "num_warps": 8, "num_stages": 3}
