"""The custom operators behind `pack_rows` and `unpack_rows`; each is the other's gradient, to any order."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from minitrans_kernels.layers.packing import pytorch
from minitrans_kernels.registration import operator
from minitrans_kernels.runtime import runs_on_triton


@operator("minitrans_kernels::pack_rows")
def pack(x: Tensor, indices: Tensor) -> Tensor:
    """The rows `indices` (N) of x (M, W)."""
    if runs_on_triton(x):
        from minitrans_kernels.layers.packing import launch

        return launch.pack(x, indices)
    return pytorch.pack(x, indices)


@pack.register_fake
def _(x: Tensor, indices: Tensor) -> Tensor:
    return x.new_empty((indices.shape[0], x.shape[1]))


@operator("minitrans_kernels::unpack_rows")
def unpack(x: Tensor, indices: Tensor, rows: int) -> Tensor:
    """(rows, W) with x (N, W) at rows `indices` and zeros elsewhere."""
    if runs_on_triton(x):
        from minitrans_kernels.layers.packing import launch

        return launch.unpack(x, indices, rows)
    return pytorch.unpack(x, indices, rows)


@unpack.register_fake
def _(x: Tensor, indices: Tensor, rows: int) -> Tensor:
    return x.new_empty((rows, x.shape[1]))


def _save_pack(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, indices = inputs
    ctx.rows = x.shape[0]
    ctx.save_for_backward(indices)


def _differentiate_pack(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (indices,) = ctx.saved_tensors
    return unpack(grad, indices, ctx.rows), None


def _save_unpack(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _differentiate_unpack(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (indices,) = ctx.saved_tensors
    return pack(grad, indices), None, None


pack.register_autograd(_differentiate_pack, setup_context=_save_pack)
unpack.register_autograd(_differentiate_unpack, setup_context=_save_unpack)
