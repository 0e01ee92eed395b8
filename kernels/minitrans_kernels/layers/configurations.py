"""Every kernel of this folder at the sizes that encoders have, for compilation without a GPU.

Recording the launches of these calls (`inspection.recording`) gives each kernel with each combination of its options that
changes its code. Tensors lie on the meta device: nothing is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from minitrans_kernels.layers import (
    embedding_kernels,
    gelu_kernels,
    layer_norm_kernels,
    masked_loss_kernels,
    rms_kernels,
)
from minitrans_kernels.layers.arguments import MAX_EMBEDDING_WIDTH

# MiniLM's width, BERT's two, one that is no multiple of 16, and the widest of the kernels
WIDTHS = {
    torch.bfloat16: (384, 768, 1024, 1000, 4096, 8192),
    torch.float16: (768,),
    torch.float32: (768, 4096, 8192),
}
VOCABULARY = 30522
_TOKENS = 16384


def every_configuration() -> Iterator[tuple[str, Callable[[], None]]]:
    """(name, a call that launches the kernels of one function, forward and backward)."""
    for dtype, width in ((dtype, width) for dtype, widths in WIDTHS.items() for width in widths):
        sizes, label = (dtype, width), f"{width} {str(dtype).removeprefix('torch.')}"
        for p in (0.0, 0.1):
            yield f"add_dropout_layer_norm {label} dropout {p}", partial(_layer_norm, *sizes, p)
            if width <= MAX_EMBEDDING_WIDTH:
                yield f"embedding_layer_norm {label} dropout {p}", partial(_embedding, *sizes, p)
        yield f"rms_norm {label}", partial(_rms_norm, *sizes)
        for approximate in ("none", "tanh"):
            yield f"bias_gelu {label} {approximate}", partial(_gelu, *sizes, approximate)
        for has_bias in (True, False) if width <= 1024 else ():
            yield f"masked_lm_loss {label} bias {has_bias}", partial(_masked_loss, *sizes, has_bias)


def _layer_norm(dtype: torch.dtype, width: int, dropout_p: float) -> None:
    rows, weight = _empty(_TOKENS, width, dtype=dtype), _empty(width, dtype=dtype)
    seed = _empty(1, dtype=torch.int64) if dropout_p else None
    for keep_sum in (False, True):
        y, z, mean, rstd = layer_norm_kernels.forward(rows, rows, weight, weight, seed, 1e-12, dropout_p, keep_sum)
    for grad_z in (None, z):
        layer_norm_kernels.backward(
            y, grad_z, z, weight, weight, mean, rstd, seed, dropout_p, seed is not None, dtype, dtype
        )


def _embedding(dtype: torch.dtype, width: int, dropout_p: float) -> None:
    ids, weight = _empty(_TOKENS, dtype=torch.int64), _empty(width, dtype=dtype)
    word, position = _empty(VOCABULARY, width, dtype=dtype), _empty(512, width, dtype=dtype)
    seed = _empty(1, dtype=torch.int64) if dropout_p else None
    for token_type in (None, _empty(2, width, dtype=dtype)):
        lookup = (ids, ids, None if token_type is None else ids), (word, position, token_type)
        y, mean, rstd = embedding_kernels.forward(*lookup, weight, weight, seed, 1e-12, dropout_p)
        embedding_kernels.backward(y, *lookup, weight, weight, mean, rstd, seed, dropout_p, 0, -1)


def _rms_norm(dtype: torch.dtype, width: int) -> None:
    rows, weight = _empty(_TOKENS, width, dtype=dtype), _empty(width, dtype=dtype)
    y, rstd = rms_kernels.forward(rows, weight, 1e-6)
    rms_kernels.backward(y, rows, weight, rstd)


def _gelu(dtype: torch.dtype, width: int, approximate: str) -> None:
    rows, bias = _empty(_TOKENS, 4 * width, dtype=dtype), _empty(4 * width, dtype=dtype)
    y = gelu_kernels.forward(rows, bias, approximate)
    gelu_kernels.backward(y, rows, bias, approximate)


def _masked_loss(dtype: torch.dtype, width: int, has_bias: bool) -> None:
    hidden, weight = _empty(_TOKENS, width, dtype=dtype), _empty(VOCABULARY, width, dtype=dtype)
    bias = _empty(VOCABULARY, dtype=dtype) if has_bias else None
    rows, count = _empty(_TOKENS, dtype=torch.int64), _empty(dtype=torch.int64)
    loss, statistics = masked_loss_kernels.forward(hidden, rows, weight, bias, rows, count)
    masked_loss_kernels.backward(loss, hidden, rows, weight, bias, rows, count, statistics)


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")
