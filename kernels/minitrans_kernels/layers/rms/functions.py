"""`rms_norm`: root mean square normalisation, in one pass over memory."""

from __future__ import annotations

from torch import Tensor

from minitrans_kernels.layers.arguments import check_eps, check_floats, check_shape, check_width
from minitrans_kernels.layers.rms import operators


def rms_norm(x: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) * weight, over the last dimension.

    Sums are taken in float32 (float64 for float64) and rounded once, at the end. Gradients are the same bits every time.

    Args:
        x: (..., D); D is at most 8192 on a GPU.
        weight: (D), of any floating point dtype; the result has that of x.
        eps: added to the mean of squares.

    Raises:
        ValueError: for shapes that do not fit, another device, a negative eps.
        TypeError: for a dtype that is not floating point, and float64 on a GPU.

    Zhang & Sennrich 2019, "Root Mean Square Layer Normalization".
    """
    width = check_width("x", x)
    check_shape("weight", weight, (width,))
    check_floats(x, x=x, weight=weight)
    check_eps(eps)
    y: Tensor = operators.forward(x.reshape(-1, width), weight, eps)[0]
    return y.view(x.shape)
