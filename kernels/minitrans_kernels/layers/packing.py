"""`pack_rows` and `unpack_rows`: between a padded batch and its real tokens laid end to end, inverse to each other."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from minitrans_kernels.layers.arguments import check_device
from minitrans_kernels.registration import operator
from minitrans_kernels.runtime import runs_on_triton


def pack_rows(x: Tensor, indices: Tensor) -> Tensor:
    """The real tokens of a padded batch, end to end: (B, S, ...) -> (N, ...). Its gradient is `unpack_rows`.

    `indices` is computed once per model and batch, for instance as `key_padding.flatten().nonzero().squeeze(1)`: that
    call waits for the device to learn N, so that no later one has to.

    Args:
        x: (B, S, ...), of any dtype.
        indices: (N) int64, the flat positions b * S + s of the tokens to keep, each at most once. One outside
            0 .. B * S - 1 gives a row of zeros on a GPU, where finding out would mean waiting, and an IndexError on the CPU.

    Raises:
        ValueError: for shapes that do not fit, or another device.
        TypeError: where indices are not int64.
    """
    if x.ndim < 2:
        raise ValueError(f"x must be (B, S, ...), got shape {tuple(x.shape)}")
    _check_indices(x, indices)
    batch, length, *rest = x.shape
    rows: Tensor = pack(x.reshape(batch * length, math.prod(rest)), indices)
    return rows.view(indices.shape[0], *rest)


def unpack_rows(x: Tensor, indices: Tensor, batch: int, length: int) -> Tensor:
    """Tokens back to their places in a padded batch, zeros elsewhere: (N, ...) -> (B, S, ...). Its gradient is `pack_rows`.

    Args:
        x: (N, ...), of any dtype.
        indices: (N) int64, as for `pack_rows`; on a GPU a row whose index is outside 0 .. B * S - 1 is left out.
        batch: B.
        length: S.

    Raises:
        ValueError: for shapes that do not fit, another device, or a negative size.
        TypeError: where indices are not int64.
    """
    _check_indices(x, indices)
    if x.ndim < 1 or x.shape[0] != indices.shape[0]:
        raise ValueError(f"x must be (N, ...) with N = {indices.shape[0]} as indices, got shape {tuple(x.shape)}")
    if batch < 0 or length < 0:
        raise ValueError(f"batch and length must not be negative, got {batch} and {length}")
    rest = x.shape[1:]
    rows: Tensor = unpack(x.reshape(x.shape[0], math.prod(rest)), indices, batch * length)
    return rows.view(batch, length, *rest)


def _check_indices(x: Tensor, indices: Tensor) -> None:
    if indices.dtype != torch.int64:
        raise TypeError(f"indices must be int64, got {indices.dtype}")
    if indices.ndim != 1:
        raise ValueError(f"indices must be (N), got shape {tuple(indices.shape)}")
    check_device(x, "indices", indices)


@operator("minitrans_kernels::pack_rows")
def pack(x: Tensor, indices: Tensor) -> Tensor:
    """The rows `indices` (N) of x (M, W)."""
    if runs_on_triton(x):
        from minitrans_kernels.layers import packing_kernels

        return packing_kernels.copy_rows(x, indices, x.new_empty((indices.shape[0], x.shape[1])), scatter=False)
    return x.index_select(0, indices)


@pack.register_fake
def _(x: Tensor, indices: Tensor) -> Tensor:
    return x.new_empty((indices.shape[0], x.shape[1]))


@operator("minitrans_kernels::unpack_rows")
def unpack(x: Tensor, indices: Tensor, rows: int) -> Tensor:
    """(rows, W) with x (N, W) at rows `indices` and zeros elsewhere."""
    places = x.new_zeros((rows, x.shape[1]))
    if runs_on_triton(x):
        from minitrans_kernels.layers import packing_kernels

        return packing_kernels.copy_rows(x, indices, places, scatter=True)
    return places.index_copy_(0, indices, x)


@unpack.register_fake
def _(x: Tensor, indices: Tensor, rows: int) -> Tensor:
    return x.new_empty((rows, x.shape[1]))


def _save_pack(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, indices = inputs
    ctx.rows = x.shape[0]
    ctx.save_for_backward(indices)


def _differentiate_pack(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return unpack(grad, *ctx.saved_tensors, ctx.rows), None


def _save_unpack(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _differentiate_unpack(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return pack(grad, *ctx.saved_tensors), None, None


# each is the other's gradient, to any order
pack.register_autograd(_differentiate_pack, setup_context=_save_pack)
unpack.register_autograd(_differentiate_unpack, setup_context=_save_unpack)
