"""Calls of the layer kernels, what they should give, and how far from it they may be; for the CPU, the interpreter and a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from minitrans_kernels import layers
from minitrans_kernels.dropout import dropout_mask
from torch import Tensor

from tests.kernels import layer_references as meaning

SEED = 1234
EPS = 1e-5
Outputs = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Call:
    """One call: its floating point inputs in float64, and ours and the reference as functions of them."""

    inputs: tuple[Tensor, ...]
    ours: Callable[..., Outputs]
    reference: Callable[..., Outputs]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + sum(shape)))


def integers(high: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def layer_norm_call(shape: tuple[int, ...], p: float = 0.0, bias: bool = True, return_sum: bool = False) -> Call:
    width = shape[-1]
    rows = normal(*shape).numel() // width

    def ours(x: Tensor, residual: Tensor, weight: Tensor, *bias: Tensor) -> Outputs:
        found = layers.add_dropout_layer_norm(
            x, residual, weight, *(bias or (None,)), eps=EPS, dropout_p=p, dropout_seed=SEED, return_sum=return_sum
        )
        return found if isinstance(found, tuple) else (found,)

    def reference(x: Tensor, residual: Tensor, weight: Tensor, *bias: Tensor) -> Outputs:
        kept = dropout_mask((rows, width), p, SEED, device=x.device).view(shape) if p else None
        found = meaning.add_dropout_layer_norm(x, residual, weight, *(bias or (None,)), EPS, kept, p)
        return found if return_sum else found[:1]

    vectors = (1.0 + normal(width), normal(width, seed=1))
    return Call((normal(*shape), normal(*shape, seed=1), *vectors[: 1 + bias]), ours, reference)


def rms_norm_call(shape: tuple[int, ...]) -> Call:
    def ours(x: Tensor, weight: Tensor) -> Outputs:
        return (layers.rms_norm(x, weight, eps=EPS),)

    def reference(x: Tensor, weight: Tensor) -> Outputs:
        return (meaning.rms_norm(x, weight, EPS),)

    return Call((normal(*shape), 1.0 + normal(shape[-1])), ours, reference)


def bias_gelu_call(shape: tuple[int, ...], approximate: str = "none") -> Call:
    def ours(x: Tensor, bias: Tensor) -> Outputs:
        return (layers.bias_gelu(x, bias, approximate=approximate),)

    def reference(x: Tensor, bias: Tensor) -> Outputs:
        return (meaning.bias_gelu(x, bias, approximate),)

    return Call((2.0 * normal(*shape), normal(shape[-1])), ours, reference)


def embedding_call(batch: int, length: int, width: int, p: float = 0.0, types: bool = True, rows: int = 11) -> Call:
    """Ids 0 and position 1 are padding, which the reference cannot know: `without_padding` takes their gradients away."""
    ids, positions = integers(rows, batch, length), torch.arange(length)[None]
    kinds = integers(2, batch, length, seed=1) if types else None

    def ours(word: Tensor, position: Tensor, weight: Tensor, bias: Tensor, *token_type: Tensor) -> Outputs:
        found = layers.embedding_layer_norm(
            ids.to(word.device), positions.to(word.device), None if kinds is None else kinds.to(word.device),
            word, position, *(token_type or (None,)), weight, bias,
            eps=EPS, dropout_p=p, dropout_seed=SEED, padding_idx=0, position_padding_idx=1,
        )  # fmt: skip
        return (found,)

    def reference(word: Tensor, position: Tensor, weight: Tensor, bias: Tensor, *token_type: Tensor) -> Outputs:
        kept = dropout_mask((batch * length, width), p, SEED, device=word.device).view(batch, length, width)
        word = torch.where(torch.arange(rows, device=word.device)[:, None] == 0, word.detach(), word)
        position = torch.where(
            torch.arange(position.shape[0], device=word.device)[:, None] == 1, position.detach(), position
        )
        found = meaning.embedding_layer_norm(
            ids.to(word.device), positions.to(word.device).expand(batch, length),
            None if kinds is None else kinds.to(word.device),
            word, position, *(token_type or (None,)), weight, bias, EPS, kept if p else None, p,
        )  # fmt: skip
        return (found,)

    tables = (normal(rows, width), normal(length + 2, width, seed=1))
    vectors = (1.0 + normal(width), normal(width, seed=1))
    return Call((*tables, *vectors, *((normal(2, width, seed=2),) if types else ())), ours, reference)


def masked_loss_call(rows: int, width: int, size: int, share: float = 0.5, bias: bool = True) -> Call:
    labels = integers(size, rows)
    labels[torch.rand(rows, generator=torch.Generator().manual_seed(0)) >= share] = -100
    labels[-1] = size - 1

    def ours(hidden: Tensor, weight: Tensor, *bias: Tensor) -> Outputs:
        return (layers.masked_lm_loss(hidden, labels.to(hidden.device), weight, *(bias or (None,))),)

    def reference(hidden: Tensor, weight: Tensor, *bias: Tensor) -> Outputs:
        found = meaning.masked_lm_loss(hidden, labels.to(hidden.device), weight, *(bias or (None,)), -100)
        return (found,)

    inputs = (normal(rows, width), normal(size, width) * width**-0.5, normal(size))
    return Call(inputs[: 2 + bias], ours, reference)


CALLS: dict[str, Call] = {
    "layer norm": layer_norm_call((2, 5, 7)),
    "layer norm, dropout": layer_norm_call((5, 7), p=0.3),
    "layer norm, no bias": layer_norm_call((5, 7), bias=False),
    "layer norm, sum": layer_norm_call((5, 7), p=0.3, return_sum=True),
    "rms norm": rms_norm_call((2, 5, 7)),
    "gelu": bias_gelu_call((2, 5, 7)),
    "gelu, tanh": bias_gelu_call((5, 7), "tanh"),
    "embedding": embedding_call(2, 5, 7),
    "embedding, dropout": embedding_call(2, 5, 7, p=0.3),
    "embedding, no types": embedding_call(2, 5, 7, types=False),
    "masked loss": masked_loss_call(5, 7, 3),
    "masked loss, no bias": masked_loss_call(5, 7, 3, bias=False),
}


def lay_out(tensor: Tensor, layout: str) -> Tensor:
    """The same numbers: as they come, with gaps between rows, or with the last axis apart."""
    if layout == "gaps" and tensor.ndim > 0:
        wide = torch.full(
            (*tensor.shape[:-1], tensor.shape[-1] + 3), torch.nan, dtype=tensor.dtype, device=tensor.device
        )
        wide[..., 1:-2] = tensor
        return wide[..., 1:-2]
    if layout == "transposed" and tensor.ndim > 1:
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    return tensor


def evaluate(
    function: Callable[..., Outputs],
    inputs: tuple[Tensor, ...],
    dtype: torch.dtype,
    layout: str = "dense",
    rounded_to: torch.dtype = torch.float64,
) -> tuple[Outputs, Outputs]:
    """Outputs, and gradients of the inputs against fixed random cotangents."""
    leaves = tuple(tensor.detach().to(dtype).requires_grad_() for tensor in inputs)
    outputs = function(*(lay_out(leaf, layout) for leaf in leaves))
    cotangents = tuple(lay_out(normal(*y.shape, seed=9).to(rounded_to).to(y.device, y.dtype), layout) for y in outputs)
    gradients = torch.autograd.grad(outputs, leaves, cotangents)
    return tuple(y.detach() for y in outputs), gradients


def errors(found: Outputs, exact: Outputs) -> list[float]:
    return [(a.double() - b).abs().max().item() if b.numel() else 0.0 for a, b in zip(found, exact, strict=True)]


def assert_accurate(call: Call, dtype: torch.dtype, layout: str = "dense", device: str = "cpu") -> None:
    """Ours is at most twice as far from float64 as the reference in the same dtype is, gradients three times.

    A result that the reference hits by luck may still be rounded: one unit in the last place of the largest element is
    allowed, and where n rows are summed in another order, the square root of n such units of float32.
    """
    inputs = tuple(tensor.to(device) for tensor in call.inputs)
    rounded = tuple(tensor.to(dtype) for tensor in inputs)
    exact = evaluate(call.reference, tuple(tensor.double() for tensor in rounded), torch.float64, rounded_to=dtype)
    plain = evaluate(call.reference, rounded, dtype, rounded_to=dtype)
    found = evaluate(call.ours, rounded, dtype, layout, dtype)
    again = evaluate(call.ours, rounded, dtype, layout, dtype)
    unit = torch.finfo(dtype).eps
    rows = exact[0][0].numel() // exact[0][0].shape[-1] if exact[0][0].ndim else inputs[0].shape[0]
    slacks = (unit, unit + torch.finfo(torch.float32).eps * rows**0.5)
    for factor, slack, ours, twice, theirs, truth in zip((2.0, 3.0), slacks, found, again, plain, exact, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, twice, strict=True)), "other bits the second time"
        scales = [float(value.abs().max()) if value.numel() else 0.0 for value in truth]
        for ours_error, theirs_error, scale in zip(errors(ours, truth), errors(theirs, truth), scales, strict=True):
            assert ours_error <= factor * theirs_error + slack * scale
