"""`bias_gelu`: the bias of a feed-forward layer and its activation, in one pass over memory."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from minitrans_kernels.layers.arguments import check_floats, check_shape
from minitrans_kernels.layers.gelu import operators

APPROXIMATIONS = ("none", "tanh")


def bias_gelu(x: Tensor, bias: Tensor, *, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """GELU(x + bias) = u Φ(u) with u = x + bias; the bias of the linear layer before it is added here and not there.

    Computed in float32 (float64 for float64) and rounded once. Gradients are the same bits every time.

    Args:
        x: (..., F), what the linear layer returned without its bias.
        bias: (F), of any floating point dtype; the result has that of x.
        approximate: "none" for the normal distribution function itself, "tanh" for the paper's approximation.

    Raises:
        ValueError: for shapes that do not fit, another device, or an unknown approximation.
        TypeError: for a dtype that is not floating point, and float64 on a GPU.

    Hendrycks & Gimpel 2016, "Gaussian Error Linear Units".
    """
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"x must be (..., F) with F at least 1, got shape {tuple(x.shape)}")
    if approximate not in APPROXIMATIONS:
        raise ValueError(f"approximate must be one of {APPROXIMATIONS}, got {approximate!r}")
    width = x.shape[-1]
    check_shape("bias", bias, (width,))
    check_floats(x, x=x, bias=bias)
    y: Tensor = operators.forward(x.reshape(-1, width), bias, approximate)
    return y.view(x.shape)
