"""Attention on Triton: allocate, choose configurations, launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minitrans_kernels.attention import bias_gradients
from minitrans_kernels.attention.backward import delta_kernel, grad_key_value_kernel, grad_query_kernel
from minitrans_kernels.attention.call import Call
from minitrans_kernels.attention.configs import Configuration, Pass, choose, in_one_pass, register_limit
from minitrans_kernels.attention.forward import forward_kernel
from minitrans_kernels.attention.preparation import (
    device_of,
    precision_of,
    prepare,
    statistic_view,
    token_view,
    visits,
    width_of,
)
from minitrans_kernels.attention.problem import Problem
from minitrans_kernels.attention.short_backward import serves, short_backward
from minitrans_kernels.attention.tuning import measured, tune, tuning

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


class Wants(NamedTuple):
    """Which gradients are wanted."""

    query: bool
    key: bool
    value: bool
    bias: bool
    diagonals: bool


def forward(problem: Problem) -> tuple[Tensor, Tensor]:
    """Output, like the query, and log-sum-exp: (B, H, T) float32, or packed (N, H)."""
    out = torch.empty_like(problem.query)
    lse = torch.empty(problem.query.shape[:-1], dtype=torch.float32, device=problem.query.device)
    if problem.query.numel() == 0 or problem.key.numel() == 0:
        return out.zero_(), lse.fill_(-torch.inf)
    with device_of(problem):
        call = prepare(problem)

        def run(configuration: Configuration) -> None:
            forward_kernel[(_query_tiles(problem, configuration.block_m) * problem.heads,)](
                call,
                token_view(out, problem.packed),
                statistic_view(lse, problem.packed),
                visits(problem, configuration.block_m, configuration.block_n, by_key=False),
                **_options(problem, configuration),
            )

        run(_configuration(problem, "forward", run))
    return out, lse


def backward(
    problem: Problem,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    grad_lse: Tensor | None,
    wants: tuple[bool, bool, bool, bool, bool],
) -> Gradients:
    """Gradients of query, key, value, bias, diagonals; None where `wants`, in this order, does not want it.

    Args:
        problem: what was computed.
        out: what `forward` gave.
        lse: what `forward` gave.
        grad_out: like out.
        grad_lse: like lse; None = zero.
        wants: of the query, the key, the value, the bias, the diagonals.
    """
    want = Wants(*wants)
    if problem.query.numel() == 0 or problem.key.numel() == 0:
        inputs = (problem.query, problem.key, problem.value, problem.bias, problem.diagonals)
        zeros = (torch.zeros_like(x) if x is not None and w else None for x, w in zip(inputs, want, strict=True))
        of_query, of_key, of_value, of_bias, of_diagonals = zeros
        return of_query, of_key, of_value, of_bias, of_diagonals
    delta = torch.empty(lse.shape, dtype=torch.float32, device=lse.device)
    of_query = of_key = of_value = of_bias = of_diagonals = None
    with device_of(problem):
        call = prepare(problem)
        if want.query and want.key and want.value and in_one_pass(problem) and serves(problem):
            of_query, of_key, of_value = short_backward(problem, call, out, lse, grad_out, grad_lse, delta)
        elif want.query:
            of_query = _grad_query(problem, call, out, lse, grad_out, grad_lse, delta)
        else:
            _delta(problem, out, grad_out, grad_lse, delta)
        if of_key is None and (want.key or want.value):
            of_key, of_value = _grad_key_value(problem, call, lse, grad_out, delta)
        if want.bias:
            of_bias = bias_gradients.bias_gradient(problem, lse, grad_out, delta, call=call)
        if want.diagonals:
            of_diagonals = bias_gradients.diagonal_gradient(problem, lse, grad_out, delta, call=call)
    return of_query, of_key if want.key else None, of_value if want.value else None, of_bias, of_diagonals


def _delta(problem: Problem, out: Tensor, grad_out: Tensor, grad_lse: Tensor | None, delta: Tensor) -> None:
    """Fills delta, for gradients that need it without that of the query."""
    tokens = problem.query.shape[0] if problem.packed else problem.max_seqlen_q
    sequences = 1 if problem.packed else problem.batch
    block = 64
    delta_kernel[(-(-tokens // block) * sequences * problem.heads,)](
        token_view(out, problem.packed),
        token_view(grad_out, problem.packed),
        None if grad_lse is None else statistic_view(grad_lse, problem.packed),
        statistic_view(delta, problem.packed),
        tokens,
        problem.heads,
        block=block,
        width=width_of(problem),
        head_width=problem.width,
        enable_fp_fusion=True,
    )


def _grad_query(
    problem: Problem,
    call: Call,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    grad_lse: Tensor | None,
    delta: Tensor,
) -> Tensor:
    """The gradient of the query; fills delta."""
    gradient = torch.empty_like(problem.query)

    def run(configuration: Configuration) -> None:
        grad_query_kernel[(_query_tiles(problem, configuration.block_m) * problem.heads,)](
            call,
            token_view(out, problem.packed),
            statistic_view(lse, problem.packed),
            token_view(grad_out, problem.packed),
            None if grad_lse is None else statistic_view(grad_lse, problem.packed),
            statistic_view(delta, problem.packed),
            token_view(gradient, problem.packed),
            visits(problem, configuration.block_m, configuration.block_n, by_key=False),
            **_options(problem, configuration),
        )

    run(_configuration(problem, "grad_query", run))
    return gradient


def _grad_key_value(
    problem: Problem, call: Call, lse: Tensor, grad_out: Tensor, delta: Tensor
) -> tuple[Tensor, Tensor]:
    of_key, of_value = torch.empty_like(problem.key), torch.empty_like(problem.value)

    def run(configuration: Configuration) -> None:
        grad_key_value_kernel[(_key_tiles(problem, configuration.block_n) * problem.key_heads,)](
            call,
            statistic_view(lse, problem.packed),
            token_view(grad_out, problem.packed),
            statistic_view(delta, problem.packed),
            token_view(of_key, problem.packed),
            token_view(of_value, problem.packed),
            visits(problem, configuration.block_n, configuration.block_m, by_key=True),
            **_options(problem, configuration),
        )

    run(_configuration(problem, "grad_key_value", run))
    return of_key, of_value


def _configuration(problem: Problem, which: Pass, run: Callable[[Configuration], None]) -> Configuration:
    configuration = choose(problem, which)
    return tune(problem, which, configuration, run, measured) if tuning(problem) else configuration


def _options(problem: Problem, configuration: Configuration) -> dict[str, Any]:
    return {
        "block_m": configuration.block_m,
        "block_n": configuration.block_n,
        "width": width_of(problem),
        "precision": precision_of(problem),
        "num_warps": configuration.warps,
        "num_stages": configuration.stages,
        "maxnreg": register_limit(problem),
        "enable_fp_fusion": True,
    }


def _query_tiles(problem: Problem, block: int) -> int:
    """Tiles of all sequences; in a packed batch as many as there can be, one more for tokens of no sequence."""
    if problem.packed:
        return problem.query.shape[0] // block + problem.batch + 1
    return problem.batch * -(-problem.max_seqlen_q // block)


def _key_tiles(problem: Problem, block: int) -> int:
    if problem.packed:
        return problem.key.shape[0] // block + problem.batch + 1
    return problem.batch * -(-problem.max_seqlen_k // block)
