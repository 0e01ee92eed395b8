"""Backward of short sequences in one pass: a program owns a whole sequence in one head.

The split backward recomputes the scores twice, once for the gradients of keys and values and once for that of the queries:
seven products of matrices where five would do. Here one program holds a tile of keys, walks over the queries and adds to
their gradients as it passes, in float32 scratch of its own. Nobody else adds to them, so there are no atomics, and each
sum has one order. The price is that parallelism is B·H programs: for sequences of up to 512 tokens, in batches.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
from torch import Tensor

from minitrans_kernels.attention.call import Call
from minitrans_kernels.attention.preparation import device_of, precision_of, statistic_view, token_view, width_of
from minitrans_kernels.attention.problem import Problem
from minitrans_kernels.attention.short_backward_kernel import short_backward_kernel
from minitrans_kernels.runtime import architecture

_LONGEST: Final = 512
# all there are: left to itself the assembler may spill to fit more programs on a processor
_REGISTERS: Final = 255
# queries and keys of a tile, warps, stages: for a bare product, for one with dropout, and for any other call. Five products'
# worth of tiles must fit the registers, which on sm_80 hold the operands too, and with wider heads none do
_TABLE: Final = {
    "sm_90": ((32, 128, 8, 2), (32, 128, 8, 1), (32, 64, 8, 1)),
    "sm_100": ((32, 64, 8, 1), (32, 64, 8, 1), (32, 64, 8, 1)),
}
# the matrix unit of sm_90 and sm_100 multiplies 64 rows at a time, and the gradient of the query has K of them
_NARROWEST: Final = 33
_WIDEST: Final = 64


def serves(problem: Problem) -> bool:
    """Whether `short_backward` computes this problem.

    It wants T and S of at most 512, K from 33 to 64, half precision, as many key/value heads as heads, and sm_90 or newer.
    """
    return (
        max(problem.max_seqlen_q, problem.max_seqlen_k) <= _LONGEST
        and _NARROWEST <= problem.width <= _WIDEST
        and problem.query.dtype != torch.float32
        and problem.heads == problem.key_heads
        and architecture(problem.query.device) in _TABLE
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
    masks = (problem.left, problem.right, problem.blocks, problem.global_tokens)
    others = (problem.bias, problem.diagonals, problem.softcap, *masks)
    bare, with_dropout, other = _TABLE[architecture(problem.query.device)]
    if any(option is not None for option in others):
        return other
    return bare if problem.dropout_seed is None else with_dropout
