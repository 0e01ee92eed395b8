"""Backward of short sequences in one pass: a program owns a whole sequence in one head.

The split backward recomputes the scores twice, once for the gradients of keys and values and once for that of the queries:
seven products of matrices where five would do. Here one program holds a tile of keys, walks over the queries and adds to
their gradients as it passes, in float32 scratch of its own. Nobody else adds to them, so there are no atomics, and each
sum has one order. The price is that parallelism is B·H programs: for sequences of up to 512 tokens, in batches.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from minitrans_kernels.attention.call import Call
from minitrans_kernels.attention.preparation import device_of, precision_of, statistic_view, token_view, width_of
from minitrans_kernels.attention.problem import Problem
from minitrans_kernels.attention.short_backward_kernel import short_backward_kernel

_LONGEST = 512
_WIDEST = 128
# all there are: left to itself the assembler may spill to fit more programs on a processor
_REGISTERS = 255


def serves(problem: Problem) -> bool:
    """Whether `short_backward` computes this problem: short, narrow, and with as many key/value heads as heads."""
    return (
        max(problem.max_seqlen_q, problem.max_seqlen_k) <= _LONGEST
        and problem.width <= _WIDEST
        and problem.heads == problem.key_heads
    )


def short_backward(
    problem: Problem,
    call: Call,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    grad_lse: Tensor | None,
    delta: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value; fills delta.

    Args:
        problem: one that `serves` accepts.
        call: the same, prepared.
        out: what the forward gave.
        lse: (B, H, T) float32, or packed (N, H), what the forward gave.
        grad_out: like out.
        grad_lse: like lse; None = zero.
        delta: like lse, becomes rowsum(grad_out ∘ out) minus grad_lse.
    """
    grads = [torch.empty_like(tensor) for tensor in (problem.query, problem.key, problem.value)]
    block_m, block_n, warps, stages = _blocks(problem)
    programs = (problem.batch + problem.packed) * problem.heads
    scratch = None
    if problem.max_seqlen_k > block_n:
        elements = programs * triton.cdiv(problem.max_seqlen_q, block_m) * block_m * width_of(problem)
        scratch = torch.empty(elements, dtype=torch.float32, device=problem.query.device)
    with device_of(problem):
        short_backward_kernel[(programs,)](
            call,
            token_view(out, problem.packed),
            statistic_view(lse, problem.packed),
            token_view(grad_out, problem.packed),
            None if grad_lse is None else statistic_view(grad_lse, problem.packed),
            statistic_view(delta, problem.packed),
            *(token_view(tensor, problem.packed) for tensor in grads),
            scratch,
            block_m=block_m,
            block_n=block_n,
            width=width_of(problem),
            precision=precision_of(problem),
            num_warps=warps,
            num_stages=stages,
            maxnreg=_REGISTERS,
            enable_fp_fusion=True,
        )
    return grads[0], grads[1], grads[2]


def _blocks(problem: Problem) -> tuple[int, int, int, int]:
    """Queries and keys of a tile, warps, stages."""
    if problem.query.dtype == torch.float32:
        return (32, 32, 8, 1) if problem.width <= 64 else (16, 16, 8, 1)
    return (64, 128, 8, 2) if problem.width <= 64 else (64, 64, 8, 2)
