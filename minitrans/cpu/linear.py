"""A linear layer with its weight laid out for oneDNN, in float32, bfloat16 or 8-bit integers, together with what follows it."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from minitrans.errors import NotSupportedError

_NO_SCALARS: list[float] = []


class FloatLinear:
    """act(x W + b), or x W + b + other, in the dtype of the weight, float32 or bfloat16.

    Args:
        weight: (out, in).
        bias: (out).
        gelu: apply GELU, the exact form.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        self.bias = bias
        self.post = ("gelu", _NO_SCALARS, "none") if gelu else ("none", _NO_SCALARS, "")

    def __call__(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """(N, in) -> (N, out); the memory of `other` may be reused for the result."""
        y: Tensor
        if other is not None and other.dtype == x.dtype:
            y = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, "add")
        else:
            y = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, *self.post)
            y = y if other is None else other.add_(y)
        return y


class IntegerLinear:
    """act(x W + b): weights in 8 bits with a scale per output, inputs quantised in each call with one scale for all of them.

    One scale suits inputs of like size. So each is divided by the root of how far it reaches, and the weights it meets are
    multiplied by that (Xiao et al. 2023, "SmoothQuant", equation 4 with alpha = 1/2, the weights' own reach left out: they have a
    scale per output and lose a tenth of what inputs lose).

    Args:
        weight: (out, in) float32.
        bias: (out) float32.
        gelu: apply GELU, the exact form.
        out: dtype of the output.
        reach: (in) how large each input gets, up to a common factor.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, gelu: bool, out: torch.dtype, reach: Tensor) -> None:
        even = (reach / reach.mean().clamp_min(1e-12)).clamp_min(1e-2).sqrt()
        self.shrink = 1 / even
        weight = weight * even
        self.scales = weight.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127  # (out)
        rounded = (weight / self.scales[:, None]).round().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)
        self.bias = bias
        self.out = out
        self.post = ("gelu", _NO_SCALARS, "none") if gelu else ("none", _NO_SCALARS, "")

    def __call__(self, x: Tensor) -> Tensor:
        """(N, in) -> (N, out)."""
        x = x * self.shrink
        low, high = (value.item() for value in torch.aminmax(x))
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max(high - low, 1e-12) / 255
        zero = round(-low / scale)
        quantised = torch.quantize_per_tensor(x.float(), scale, zero, torch.quint8)
        numbers = torch.empty(0, dtype=torch.uint8)  # int_repr() would copy, in one thread
        numbers.set_(quantised.untyped_storage(), 0, quantised.shape, quantised.stride())
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            numbers, scale, zero, self.weight, self.scales, self.zeros, self.bias, 1.0, 0, self.out, *self.post
        )
        return y


def check_operators(dtype: str) -> None:
    """Tries the operators that `dtype` needs. Raises NotSupportedError naming what this torch or processor lacks."""
    weight, x = torch.ones(2, 2), torch.ones(1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces once that its quantised tensors will go
        try:
            kind = torch.float32 if dtype == "float32" else torch.bfloat16  # "int8" needs bfloat16 too
            found = FloatLinear(weight.to(kind), None)(x.to(kind)).float()
            if dtype == "int8":
                found = IntegerLinear(weight, None, gelu=False, out=torch.float32, reach=x[0])(x)
        except (AttributeError, NotImplementedError, RuntimeError) as error:
            reason = (str(error).splitlines() or ["no reason given"])[0]
            raise NotSupportedError(
                f"dtype={dtype!r} needs oneDNN's linear layers, which fail here: {reason}"
            ) from error
    if not (found - 2).abs().max() < 0.1:  # NaN too
        raise NotSupportedError(f"dtype={dtype!r}: oneDNN's linear layers compute wrong numbers here")
