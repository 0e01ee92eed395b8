"""Linear layers with their weights laid out for oneDNN, in float32, bfloat16 or 8-bit integers, with what follows them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minitrans.errors import NotSupportedError
from minitrans.layers.activations import Activation, gelu_erf, gelu_fast, gelu_new, gelu_tanh

Post = tuple[str, list[float], str]  # as oneDNN's operators take what they apply to their output
NO_POST: Post = ("none", [], "none")
POSTS: dict[Activation, Post] = {
    gelu_erf: ("gelu", [], "none"),
    **dict.fromkeys((gelu_tanh, gelu_new, gelu_fast), ("gelu", [], "tanh")),
    F.relu: ("relu", [], "none"),
}
# How large the inputs of layers get, (in) each; empty where nothing is computed in integers
Reaches = Mapping[nn.Module, Tensor]
StepLinear = Callable[..., Tensor]  # (x (N, in), other (N, out) = None) -> (N, out)
_SMALL = 2**17  # weights; below, a call of oneDNN costs more than the product
_STEP = 64  # of the input, in products with 8-bit weights: torch reads beyond others
_FEW = 8  # rows that are multiplied with 8-bit weights as they are
LEAST_OF_POSTS = -0.171  # no function above goes below, GELU comes near


class FloatLinear:
    """act(x W + b), or x W + b + other, in the dtype of the weight, float32 or bfloat16.

    Args:
        weight: (out, in).
        bias: (out).
        post: what is applied to the output.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, post: Post = NO_POST) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        self.bias = bias
        self.post = post

    def __call__(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """(N, in) -> (N, out)."""
        y: Tensor
        if other is not None:
            y = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, "add")
        else:
            y = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, *self.post)
        return y


class Integers(NamedTuple):
    """Values in 8 bits: scale · (numbers - zero)."""

    numbers: Tensor
    scale: float
    zero: int


class IntegerLinear:
    """act(x W + b), or x W + b + other, in 8 bits: weights with a scale per output, inputs with one scale for all of them.

    Args:
        weight: (out, in) float32.
        bias: (out) float32.
        post: what is applied to the output.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, post: Post = NO_POST) -> None:
        scales = weight.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127  # (out)
        rounded = (weight / scales[:, None]).round().to(torch.int8)
        packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.weight = (packed, scales, torch.zeros(len(weight), dtype=torch.int32))
        self.bias = bias
        self.post = post

    def __call__(self, x: Integers, other: Tensor | None = None) -> Tensor:
        """(N, in) -> (N, out) float32; `other` is written over with the result."""
        y: Tensor
        if other is None:
            y = torch.ops.onednn.qlinear_pointwise(*x, *self.weight, self.bias, 1.0, 0, torch.float32, *self.post)
        else:
            add = (1.0, 0, torch.float32, 1.0, 0, "sum", 1.0, *NO_POST)
            y = torch.ops.onednn.qlinear_pointwise.binary(*x, *self.weight, other, self.bias, *add)
        return y

    def integers(self, x: Integers, scale: float, zero: int) -> Integers:
        """(N, in) -> (N, out) in 8 bits of this scale and zero; what they do not reach is clipped."""
        out = (scale, zero, torch.uint8)
        return Integers(torch.ops.onednn.qlinear_pointwise(*x, *self.weight, self.bias, *out, *self.post), scale, zero)


class EvenLinear:
    """x W + b, or x W + b + other, in 8-bit integers; inputs are quantised in each call with one scale for all of them.

    One scale suits inputs of like size. So each is divided by the root of how far it reaches, and the weights it meets are
    multiplied by that (Xiao et al. 2023, "SmoothQuant", equation 4 with alpha = 1/2, the weights' own reach left out: they have a
    scale per output and lose a tenth of what inputs lose).

    Args:
        weight: (out, in) float32.
        bias: (out) float32.
        reach: (in) how large each input gets, up to a common factor.
        post: what is applied to the output.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, reach: Tensor, post: Post = NO_POST) -> None:
        even = (reach / reach.mean().clamp_min(1e-12)).clamp_min(1e-2).sqrt()
        self.shrink = 1 / even
        self.linear = IntegerLinear(weight * even, bias, post)

    def __call__(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """(N, in) -> (N, out) float32; `other` is written over with the result."""
        return self.linear(self.quantise(x), other)

    def quantise(self, x: Tensor) -> Integers:
        """What the linear layer takes for these inputs."""
        x = x * self.shrink
        low, high = (value.item() for value in torch.aminmax(x))
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max(high - low, 1e-12) / 255
        zero = round(-low / scale)
        quantised = torch.quantize_per_tensor(x, scale, zero, torch.quint8)
        numbers = torch.empty(0, dtype=torch.uint8)  # int_repr() would copy, in one thread
        numbers.set_(quantised.untyped_storage(), 0, quantised.shape, quantised.stride())
        return Integers(numbers, scale, zero)


class FewRowsLinear:
    """act(x W + b), or x W + b + other, in float32, mostly for one row.

    One row is multiplied with the transposed weight, which is read once from end to end: half the time of oneDNN's product, which
    is for several rows. Both layouts are kept, but of small weights.

    Args:
        weight: (out, in).
        bias: (out).
        act: what is applied to the output.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, act: Activation | None = None) -> None:
        self.across = weight.T.contiguous()
        self.bias, self.act = bias, act
        self.packed = None if weight.numel() < _SMALL else ActingLinear(FloatLinear, weight, bias, act)

    def __call__(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """(N, in) -> (N, out)."""
        if self.packed is not None and len(x) > 1:
            return self.packed(x, other)
        if other is None:
            y = torch.mm(x, self.across) if self.bias is None else torch.addmm(self.bias, x, self.across)
        else:
            y = torch.addmm(other, x, self.across)
            y = y if self.bias is None else y.add_(self.bias)
        return y if self.act is None else self.act(y)


class ActingLinear:
    """A linear layer followed by any activation, in the same call where oneDNN knows it.

    Args:
        kind: of the layer.
        weight: (out, in).
        bias: (out).
        act: what is applied to the output.
        reach: (in) of its inputs, where the kind takes that.
    """

    def __init__(
        self,
        kind: Callable[..., StepLinear],
        weight: Tensor,
        bias: Tensor | None,
        act: Activation | None,
        *reach: Tensor,
    ) -> None:
        post = NO_POST if act is None else POSTS.get(act)
        self.act = act if post is None else None
        self.linear = kind(weight, bias, *reach, NO_POST if post is None else post)

    def __call__(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """(N, in) -> (N, out)."""
        y = self.linear(x, other)
        return y if self.act is None else self.act(y)


class FewRowsInteger:
    """The same with weights in 8 bits: a few rows are bfloat16, several are 8 bits too.

    Few rows cost what it takes to read the weights, so that their inputs need not be integers; and the call is a shorter one.

    Args:
        weight: (out, in) float32.
        bias: (out) float32.
        act: what is applied to the output.
        reach: (in) how large each input gets.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, act: Activation | None, reach: Tensor) -> None:
        self.scales = (weight.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127).bfloat16()
        self.numbers = (weight / self.scales.float()[:, None]).round().clamp_(-127, 127).to(torch.int8)
        self.bias, self.act = bias, act
        self.many = ActingLinear(EvenLinear, weight, bias, act, reach)

    def __call__(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """(N, in) -> (N, out)."""
        if len(x) > _FEW:
            return self.many(x, other)
        y = torch._weight_int8pack_mm(x.bfloat16(), self.numbers, self.scales).float()
        y = y if self.bias is None else y.add_(self.bias)
        y = y if other is None else y.add_(other)
        return y if self.act is None else self.act(y)


def step_linear(
    linears: Sequence[nn.Linear],
    dtype: str,
    reach: Reaches,
    act: Activation | None = None,
    *,
    bias: Tensor | None = None,
    is_last: bool = False,
) -> StepLinear:
    """One layer whose output is that of all of these, side by side, for the few rows of a decoder's step.

    Args:
        linears: of the same input; their weights are copied.
        dtype: "float32", "bfloat16" or "int8"; small weights stay in float32 where integers would take longer.
        reach: of the inputs, for "int8".
        act: what is applied to the output.
        bias: (out) in place of their own.
        is_last: whether the output is scores of a vocabulary.
    """
    weight = torch.cat([each.weight.detach() for each in linears])
    if bias is None and any(each.bias is not None for each in linears):
        zeros = (each.weight.new_zeros(each.out_features) for each in linears)
        bias = torch.cat(
            [zero if each.bias is None else each.bias.detach() for each, zero in zip(linears, zeros, strict=True)]
        )
    if dtype == "bfloat16":
        return ActingLinear(FloatLinear, weight.bfloat16(), None if bias is None else bias.bfloat16(), act)
    weight, bias = weight.float(), None if bias is None else bias.float()
    if dtype == "int8" and weight.numel() >= _SMALL:
        # scores of a vocabulary are not rounded to bfloat16: many would be equal
        if is_last or weight.shape[1] % _STEP:
            return ActingLinear(EvenLinear, weight, bias, act, reach[linears[0]])
        return FewRowsInteger(weight, bias, act, reach[linears[0]])
    return FewRowsLinear(weight, bias, act)


def check_operators(dtype: str) -> None:
    """Tries the operators that `dtype` needs. Raises NotSupportedError naming what this torch or processor lacks."""
    weight, x = torch.ones(2, 2), torch.ones(1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces once that its quantised tensors will go
        try:
            kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
            found = FloatLinear(weight.to(kind), None)(x.to(kind)).float()
            if dtype == "int8":
                found = EvenLinear(weight, None, x[0])(x)
                wide = torch.ones(2, _STEP)
                found = torch.minimum(found, FewRowsInteger(wide, None, None, wide[0])(wide[:1]) * 2 / _STEP)
        except (AttributeError, NotImplementedError, RuntimeError) as error:
            reason = (str(error).splitlines() or ["no reason given"])[0]
            raise NotSupportedError(
                f"dtype={dtype!r} needs oneDNN's linear layers, which fail here: {reason}"
            ) from error
    if not (found - 2).abs().max() < 0.1:  # NaN too
        raise NotSupportedError(f"dtype={dtype!r}: oneDNN's linear layers compute wrong numbers here")
