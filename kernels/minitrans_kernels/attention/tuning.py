"""Opt-in search around the table: with MINITRANS_AUTOTUNE=1 a call's first launch times a configuration and its neighbours.

Which of them wins is a matter of chance where they are close, so that results may differ by rounding between processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import torch
from triton.runtime.errors import OutOfResources
from triton.testing import do_bench

from minitrans_kernels.attention.configs import Configuration, Pass, kind
from minitrans_kernels.attention.problem import Problem

Run = Callable[[Configuration], None]
_found: dict[tuple[object, ...], Configuration] = {}


def tuning(problem: Problem) -> bool:
    """Whether this call may be timed: asked for, on a device, and not while a graph is captured."""
    asked = os.environ.get("MINITRANS_AUTOTUNE", "0") == "1"
    return asked and problem.query.is_cuda and not torch.cuda.is_current_stream_capturing()


def tune(
    problem: Problem, which: Pass, start: Configuration, run: Run, time: Callable[[Run, Configuration], float]
) -> Configuration:
    """The fastest of `start` and its neighbours for calls like this one; timed once for each power of two of the sizes.

    Args:
        problem: the call.
        which: the pass.
        start: the table's configuration.
        run: launches the pass with a configuration.
        time: how long that takes; inf where it needs more than the device has.
    """
    sizes = (problem.batch * problem.heads, problem.max_seqlen_q, problem.max_seqlen_k)
    key = (
        problem.query.device, problem.query.dtype, which, kind(problem), problem.width, problem.causal, problem.packed,
        *(size.bit_length() for size in sizes),
    )  # fmt: skip
    if key not in _found:
        _found[key] = min(neighbours(start), key=lambda candidate: time(run, candidate))
    return _found[key]


def neighbours(start: Configuration) -> Iterator[Configuration]:
    """`start` and what differs from it in one number."""
    yield start
    for block_m in (start.block_m // 2, start.block_m * 2):
        if 16 <= block_m <= 256:
            yield start._replace(block_m=block_m)
    for block_n in (start.block_n // 2, start.block_n * 2):
        if 16 <= block_n <= 256:
            yield start._replace(block_n=block_n)
    yield start._replace(warps=4 if start.warps == 8 else 8)
    for stages in (start.stages - 1, start.stages + 1):
        if 1 <= stages <= 4:
            yield start._replace(stages=stages)


def measured(run: Run, configuration: Configuration) -> float:
    """Median milliseconds of a launch on the current device; inf where it does not fit."""
    try:
        milliseconds: float = do_bench(lambda: run(configuration), warmup=5, rep=30, return_mode="median")
    except OutOfResources:
        return float("inf")
    return milliseconds
