"""`add_dropout_layer_norm`: what stands between two sublayers of a Transformer, in one pass over memory."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from minitrans_kernels.layers.arguments import check_eps, check_floats, check_shape, check_width, checked_seed
from minitrans_kernels.layers.layer_norm import operators


@overload
def add_dropout_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    eps: float,
    dropout_p: float = 0.0,
    dropout_seed: int | Tensor | None = None,
    return_sum: Literal[False] = False,
) -> Tensor: ...
@overload
def add_dropout_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    eps: float,
    dropout_p: float = 0.0,
    dropout_seed: int | Tensor | None = None,
    return_sum: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def add_dropout_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    eps: float,
    dropout_p: float = 0.0,
    dropout_seed: int | Tensor | None = None,
    return_sum: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = LayerNorm(z) with z = dropout(x) + residual, and z too where a pre-norm block goes on with it.

    Sums are taken in float32 (float64 for float64); z is rounded to its dtype before it is normalised. Dropout zeroes what
    `dropout_mask((rows, D), dropout_p, dropout_seed)` does not keep, rows being the leading dimensions counted through,
    and divides the rest by 1 - dropout_p; the backward draws the mask again. Gradients are the same bits every time.

    Args:
        x: (..., D), what the sublayer returned; D is at most 8192 on a GPU.
        residual: as x, what went into the sublayer. Where the dtypes differ, y and z take the wider one, as `x + residual`.
        weight: (D), of any floating point dtype.
        bias: (D) or None.
        eps: added to the variance.
        dropout_p: probability with which an element of x is dropped.
        dropout_seed: a number, or an int64 tensor of one; required where dropout_p is positive.
        return_sum: whether to return (y, z).

    Raises:
        ValueError: for shapes that do not fit, another device, a negative eps, a dropout_p outside [0, 1) or without a seed.
        TypeError: for a dtype that is not floating point, and float64 on a GPU.

    Layer normalisation: Ba, Kiros & Hinton 2016, "Layer Normalization".
    """
    width = check_width("x", x)
    check_shape("residual", residual, x.shape)
    check_shape("weight", weight, (width,))
    check_shape("bias", bias, (width,))
    check_floats(x, x=x, residual=residual, weight=weight, bias=bias)
    check_eps(eps)
    seed = checked_seed(dropout_p, dropout_seed, x.device)
    learns = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (x, residual, weight, bias)
    )
    rows = (x.reshape(-1, width), residual.reshape(-1, width))
    y, z, _, _ = operators.forward(*rows, weight, bias, seed, eps, dropout_p, return_sum or learns)
    return (y.view(x.shape), z.view(x.shape)) if return_sum else y.view(x.shape)
