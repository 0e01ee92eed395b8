"""Allocation and launches of the masked loss kernels; arguments and results as in `pytorch`, without a look at the count."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from minitrans_kernels.layers.launching import contiguous_rows, on
from minitrans_kernels.layers.masked_loss.gradient_kernels import hidden_gradient_kernel, weight_gradient_kernel
from minitrans_kernels.layers.masked_loss.kernels import join_lse_kernel, logit_gradients_kernel, partial_lse_kernel

# vocabulary entries that one program of the forward walks over, and whose gradients the backward stores at a time
_SPLIT = 2048
_CHUNK = 4096
# edges of a product's tile, (two outer, inner), and its warps: 16-bit types on matrix units, float32
_HALF_TILE = {"outer": 128, "inner": 64, "warps": 8, "stages": 3}
_FLOAT_TILE = {"outer": 64, "inner": 32, "warps": 4, "stages": 2}
_JOIN = 128
_ALIGNMENT = 16


def forward(
    hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, order: Tensor, count: Tensor
) -> tuple[Tensor, Tensor]:
    """(mean loss, largest logit and sum of exponentials (2, N)): rows order[0 .. count - 1] of hidden (N, D) are labelled."""
    rows, vocabulary = hidden.shape[0], weight.shape[0]
    hidden, weight = _aligned(hidden), _aligned(weight)
    splits = triton.cdiv(vocabulary, _SPLIT)
    maxima = hidden.new_empty((splits, rows), dtype=torch.float32)
    sums, targets = torch.empty_like(maxima), torch.empty_like(maxima)
    statistics = hidden.new_empty((2, rows), dtype=torch.float32)
    losses = hidden.new_empty(rows, dtype=torch.float32)
    tile = _tile(hidden)
    labels = labels.contiguous()
    with on(hidden.device):
        partial_lse_kernel[(triton.cdiv(rows, tile["outer"]), splits)](
            hidden,
            labels,
            weight,
            weight if bias is None else bias.contiguous(),
            order,
            count,
            maxima,
            sums,
            targets,
            rows,
            hidden.shape[1],
            hidden.stride(0),
            weight.stride(0),
            vocabulary,
            SPLIT=_SPLIT,
            BLOCK_N=tile["outer"],
            BLOCK_V=tile["outer"],
            BLOCK_D=tile["inner"],
            WHOLE=hidden.shape[1] % tile["inner"] == 0,
            HAS_BIAS=bias is not None,
            PRECISION=_precision(),
            num_warps=tile["warps"],
            num_stages=tile["stages"],
        )
        join_lse_kernel[(triton.cdiv(rows, _JOIN),)](
            labels,
            order,
            count,
            maxima,
            sums,
            targets,
            statistics,
            losses,
            rows,
            splits,
            vocabulary,
            BLOCK_N=_JOIN,
            num_warps=4,
        )
    return losses.sum() / count, statistics


def backward(
    grad_loss: Tensor,
    hidden: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    order: Tensor,
    count: Tensor,
    statistics: Tensor,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of (hidden, weight, bias): zeros where nothing is labelled."""
    rows, width = hidden.shape
    vocabulary = weight.shape[0]
    hidden, weight = _aligned(hidden), _aligned(weight)
    tile = _tile(hidden)
    outer, inner = tile["outer"], tile["inner"]
    tiles = triton.cdiv(rows, outer)
    grads = hidden.new_empty((tiles * outer, _CHUNK))
    bias_parts = hidden.new_empty((tiles, _CHUNK), dtype=torch.float32)
    sums = hidden.new_empty((rows if vocabulary > _CHUNK else 0, width), dtype=torch.float32)
    grad_hidden = hidden.new_zeros((rows, width))
    grad_weight = weight.new_empty((vocabulary, width))
    grad_bias = None if bias is None else torch.empty_like(bias, memory_format=torch.contiguous_format)
    strips = triton.cdiv(width, outer)
    precision = _precision()
    common = {"D": width, "CHUNK": _CHUNK, "PRECISION": precision}
    options = {"num_warps": tile["warps"], "num_stages": tile["stages"]}
    labels = labels.contiguous()
    with on(hidden.device):
        for begin in range(0, vocabulary, _CHUNK):
            blocks = triton.cdiv(min(_CHUNK, vocabulary - begin), outer)
            logit_gradients_kernel[(tiles, blocks)](
                hidden,
                labels,
                weight,
                weight if bias is None else bias.contiguous(),
                order,
                count,
                statistics,
                grads,
                bias_parts,
                rows,
                hidden.shape[1],
                hidden.stride(0),
                weight.stride(0),
                vocabulary,
                begin,
                CHUNK=_CHUNK,
                BLOCK_N=outer,
                BLOCK_V=outer,
                BLOCK_D=inner,
                WHOLE=hidden.shape[1] % inner == 0,
                HAS_BIAS=bias is not None,
                PRECISION=precision,
                **options,
            )
            weight_gradient_kernel[(blocks, strips)](
                grads,
                bias_parts,
                hidden,
                order,
                count,
                grad_loss,
                grad_weight,
                grad_weight if grad_bias is None else grad_bias,
                hidden.stride(0),
                vocabulary,
                begin,
                TILE=outer,
                BLOCK_V=outer,
                BLOCK_D=outer,
                BLOCK_N=inner,
                BLOCK_PARTS=16,
                HAS_BIAS=bias is not None,
                **common,
                **options,
            )
            hidden_gradient_kernel[(tiles, strips)](
                grads,
                weight,
                order,
                count,
                grad_loss,
                sums,
                grad_hidden,
                weight.stride(0),
                vocabulary,
                begin,
                BLOCK_N=outer,
                BLOCK_D=outer,
                BLOCK_V=inner,
                **common,
                **options,
            )
    return grad_hidden, grad_weight, grad_bias


def _aligned(rows: Tensor) -> Tensor:
    """The rows with dense elements and a stride that Triton can load from in whole vectors: zeros fill a width like 312."""
    short = -rows.shape[1] % _ALIGNMENT
    return F.pad(rows, (0, short)) if short else contiguous_rows(rows)


def _tile(hidden: Tensor) -> dict[str, int]:
    return _FLOAT_TILE if hidden.dtype == torch.float32 else _HALF_TILE


def _precision() -> str:
    """How float32 is multiplied: as it is, unless PyTorch was told that less will do."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
