"""Gradients of what is added to the scores: of a dense bias, and of one number per head and diagonal.

Both are sums of dS = P ∘ (dP - delta) over everything the added number was used for, and recompute dS from the
log-sum-exp. A program owns a tile of the result and meets its summands one after the other, so that the order of the sum,
and with it every bit, is fixed. Where a result has few tiles, several programs share the summands of one: each writes a
partial sum of its own, and those are added in order. How many there are depends on the sizes alone, not on the device.

Diagonals: a program owns the tiles of one head whose first key and first query stand equally far apart. In all of them the
element (a, b) lies on the same diagonal, so that it adds up whole tiles and sums the total along its diagonals once at the
end. Memory is O(T + S).
"""

from __future__ import annotations

from typing import Final

import torch
import triton
from torch import Tensor

from minitrans_kernels.attention.bias_gradients_kernel import (
    bias_gradient_kernel,
    diagonal_gradient_kernel,
    diagonal_sum_kernel,
)
from minitrans_kernels.attention.call import Call
from minitrans_kernels.attention.preparation import (
    device_of,
    grid_view,
    precision_of,
    prepare,
    statistic_view,
    token_view,
    width_of,
)
from minitrans_kernels.attention.problem import Problem
from minitrans_kernels.runtime import architecture

# queries and keys of a square tile, columns of the head loaded at a time, warps, stages; for head widths up to
_WIDTHS: Final = (64, 128, 256)
_HALF: Final = {
    "sm_80": ((32, 64, 4, 2), (32, 64, 4, 2), (16, 32, 4, 1)),
    "sm_90": ((64, 64, 8, 2), (64, 64, 8, 2), (64, 64, 8, 1)),
    "sm_100": ((64, 64, 8, 2), (64, 64, 8, 1), (64, 64, 8, 1)),
}
_FLOAT32: Final = ((16, 16, 4, 1), (16, 16, 4, 1), (16, 16, 4, 1))
# programs to aim at: a few for each of the processors of a large device
_PROGRAMS = 512
# query tiles of a sequence that are one summand when diagonals are shared out
_SEGMENT = 16
# all there are: left to itself the assembler may spill to fit more programs on a processor
_REGISTERS = 255


def bias_gradient(
    problem: Problem, lse: Tensor, grad_out: Tensor, delta: Tensor, *, call: Call | None = None
) -> Tensor:
    """The gradient of `problem.bias`, in its shape and dtype.

    Args:
        problem: with a bias.
        lse: (B, H, T) float32, or packed (N, H), as the forward gave it.
        grad_out: like the query.
        delta: like lse, rowsum(grad_out ∘ out) minus the gradient of lse.
        call: the prepared problem, where the caller has it.
    """
    assert problem.bias is not None
    gradient = torch.empty_like(problem.bias)
    if gradient.numel() == 0:
        return gradient
    block, chunk, warps, stages = _blocks(problem)
    owners = problem.bias.shape[0] * problem.bias.shape[1]
    tiles = triton.cdiv(problem.max_seqlen_q, block) * triton.cdiv(problem.max_seqlen_k, block) * owners
    share, parts = _shares(problem.batch * problem.heads // owners, tiles)
    partials = gradient[None]
    if parts > 1:
        partials = torch.empty(parts, *problem.bias.shape, dtype=torch.float32, device=gradient.device)
    with device_of(problem):
        bias_gradient_kernel[(tiles * parts,)](
            prepare(problem) if call is None else call,
            grid_view(partials[0]),
            partials.stride(0),
            problem.bias.shape[0],
            problem.bias.shape[1],
            share,
            token_view(grad_out, problem.packed),
            statistic_view(lse, problem.packed),
            statistic_view(delta, problem.packed),
            block=block,
            width=width_of(problem),
            chunk=chunk,
            precision=precision_of(problem),
            num_warps=warps,
            # with a mask the kernel leaves tiles out, and a loop with a branch is not pipelined
            num_stages=1 if _masked(problem) else stages,
            maxnreg=_REGISTERS,
            enable_fp_fusion=True,
        )
        return gradient if parts == 1 else gradient.copy_(partials.sum(0))


def diagonal_gradient(
    problem: Problem, lse: Tensor, grad_out: Tensor, delta: Tensor, *, call: Call | None = None
) -> Tensor:
    """(H, T + S - 1) float32, the gradient of `problem.diagonals`; arguments as for `bias_gradient`."""
    queries, keys = problem.max_seqlen_q, problem.max_seqlen_k
    block, chunk, warps, stages = _blocks(problem)
    lowest = -triton.cdiv(keys - 1, block)  # the band of distances from lowest * block on
    bands = (queries - 1) // block + 1 - lowest
    segments = triton.cdiv(queries, _SEGMENT * block)
    share, parts = _shares(problem.batch * segments, bands * problem.heads)
    device = problem.query.device
    gradient = torch.empty(problem.heads, queries + keys - 1, dtype=torch.float32, device=device)
    partials = torch.empty(parts, 2, problem.heads, bands * block, dtype=torch.float32, device=device)
    with device_of(problem):
        diagonal_gradient_kernel[(bands * problem.heads * parts,)](
            prepare(problem) if call is None else call,
            partials,
            lowest,
            bands,
            segments,
            share,
            token_view(grad_out, problem.packed),
            statistic_view(lse, problem.packed),
            statistic_view(delta, problem.packed),
            block=block,
            segment=_SEGMENT * block,
            width=width_of(problem),
            chunk=chunk,
            precision=precision_of(problem),
            num_warps=warps,
            num_stages=stages,
            maxnreg=_REGISTERS,
            enable_fp_fusion=True,
        )
        diagonal_sum_kernel[(bands * problem.heads,)](
            partials,
            gradient,
            parts,
            problem.heads,
            bands,
            lowest,
            queries,
            keys,
            block=block,
            num_warps=1,
            enable_fp_fusion=True,
        )
    return gradient


def _masked(problem: Problem) -> bool:
    """Whether there are pairs of a query and a key that do not meet, padding included."""
    limits = (problem.key_padding, problem.left, problem.right, problem.blocks)
    return problem.packed or problem.causal or any(limit is not None for limit in limits)


def _shares(summands: int, tiles: int) -> tuple[int, int]:
    """(summands a program, programs a tile)."""
    parts = min(summands, max(1, _PROGRAMS // tiles))
    share = triton.cdiv(summands, parts)
    return share, triton.cdiv(summands, share)


def _blocks(problem: Problem) -> tuple[int, int, int, int]:
    """Queries and keys of a square tile, columns of the head loaded at a time, warps, stages."""
    rows = _FLOAT32 if problem.query.dtype == torch.float32 else _HALF[architecture(problem.query.device)]
    block, chunk, warps, stages = next(row for bound, row in zip(_WIDTHS, rows, strict=True) if problem.width <= bound)
    return block, min(chunk, width_of(problem)), warps, stages
