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

# programs to aim at: a few for each of the processors of a large device
_PROGRAMS = 512
# query tiles of a sequence that are one summand when diagonals are shared out
_SEGMENT = 16


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
    block, warps, stages = _blocks(problem)
    owners = problem.bias.shape[0] * problem.bias.shape[1]
    tiles = triton.cdiv(problem.max_seqlen_q, block) * triton.cdiv(problem.max_seqlen_k, block) * owners
    share, chunks = _shares(problem.batch * problem.heads // owners, tiles)
    partials = gradient[None]
    if chunks > 1:
        partials = torch.empty(chunks, *problem.bias.shape, dtype=torch.float32, device=gradient.device)
    with device_of(problem):
        bias_gradient_kernel[(tiles * chunks,)](
            prepare(problem) if call is None else call,
            grid_view(partials[0]),
            partials.stride(0),
            problem.bias.shape[0],
            problem.bias.shape[1],
            share,
            token_view(grad_out, problem.packed),
            statistic_view(lse, problem.packed),
            statistic_view(delta, problem.packed),
            block_m=block,
            block_n=block,
            width=width_of(problem),
            precision=precision_of(problem),
            num_warps=warps,
            num_stages=stages,
        )
        return gradient if chunks == 1 else gradient.copy_(partials.sum(0))


def diagonal_gradient(
    problem: Problem, lse: Tensor, grad_out: Tensor, delta: Tensor, *, call: Call | None = None
) -> Tensor:
    """(H, T + S - 1) float32, the gradient of `problem.diagonals`; arguments as for `bias_gradient`."""
    queries, keys = problem.max_seqlen_q, problem.max_seqlen_k
    block, warps, stages = _blocks(problem)
    lowest = -triton.cdiv(keys - 1, block)  # the band of distances from lowest * block on
    bands = (queries - 1) // block + 1 - lowest
    segments = triton.cdiv(queries, _SEGMENT * block)
    share, chunks = _shares(problem.batch * segments, bands * problem.heads)
    device = problem.query.device
    gradient = torch.empty(problem.heads, queries + keys - 1, dtype=torch.float32, device=device)
    partials = torch.empty(chunks, 2, problem.heads, bands * block, dtype=torch.float32, device=device)
    with device_of(problem):
        diagonal_gradient_kernel[(bands * problem.heads * chunks,)](
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
            precision=precision_of(problem),
            num_warps=warps,
            num_stages=stages,
        )
        diagonal_sum_kernel[(bands * problem.heads,)](
            partials, gradient, chunks, problem.heads, bands, lowest, queries, keys, block=block, num_warps=1
        )
    return gradient


def _shares(summands: int, tiles: int) -> tuple[int, int]:
    """(summands a program, programs a tile)."""
    chunks = min(summands, max(1, _PROGRAMS // tiles))
    share = triton.cdiv(summands, chunks)
    return share, triton.cdiv(summands, share)


def _blocks(problem: Problem) -> tuple[int, int, int]:
    """Queries and keys of a square tile, warps, stages."""
    if problem.query.dtype == torch.float32:
        return (32, 8, 1) if problem.width <= 64 else (16, 4, 1)
    return (64, 8, 2) if problem.width <= 128 else (64, 8, 1)
