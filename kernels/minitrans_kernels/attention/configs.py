"""Which tile sizes a kernel runs with: a table, so that results are the same bits on every run and every start is quick."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

import torch

from minitrans_kernels.attention.problem import Problem
from minitrans_kernels.runtime import ARCHITECTURES, architecture

Pass = Literal["forward", "grad_query", "grad_key_value"]
Kind = Literal["plain", "heavy", "narrow", "sparse", "float32"]


class Configuration(NamedTuple):
    """Queries and keys of a tile, warps of a program, stages of its software pipeline."""

    block_m: int
    block_n: int
    warps: int
    stages: int


PASSES: Final[tuple[Pass, ...]] = ("forward", "grad_query", "grad_key_value")
KINDS: Final[tuple[Kind, ...]] = ("plain", "heavy", "narrow", "sparse", "float32")
WIDTHS: Final = (32, 64, 128, 256)
# a window of fewer keys, or fewer queries, would leave most of a large tile empty
_NARROW: Final = 512
_FEW: Final = 64
_ONE_TILE: Final = 128
_ENOUGH_PROGRAMS: Final = 128

_C = Configuration
# columns: head widths up to 32, 64, 128, 256
_TABLE: Final[dict[tuple[str, Pass, Kind], tuple[Configuration, ...]]] = {
    ("sm_80", "forward", "plain"): (_C(128, 64, 4, 3), _C(128, 64, 4, 3), _C(128, 64, 8, 3), _C(64, 32, 4, 2)),
    ("sm_80", "forward", "heavy"): (_C(128, 64, 8, 3), _C(128, 64, 8, 3), _C(128, 32, 8, 2), _C(64, 32, 8, 2)),
    ("sm_80", "forward", "narrow"): (_C(64, 64, 8, 3), _C(64, 64, 4, 3), _C(64, 64, 8, 2), _C(64, 32, 8, 2)),
    ("sm_80", "forward", "sparse"): (_C(64, 64, 4, 3), _C(64, 64, 4, 3), _C(64, 64, 8, 2), _C(64, 32, 8, 2)),
    ("sm_80", "forward", "float32"): (_C(64, 32, 8, 2), _C(32, 16, 4, 2), _C(32, 16, 4, 2), _C(32, 16, 8, 2)),
    ("sm_80", "grad_query", "plain"): (_C(64, 64, 4, 3), _C(128, 64, 8, 2), _C(64, 64, 8, 2), _C(64, 32, 8, 1)),
    ("sm_80", "grad_query", "heavy"): (_C(64, 64, 4, 3), _C(64, 32, 8, 2), _C(64, 32, 8, 2), _C(64, 32, 8, 1)),
    ("sm_80", "grad_query", "narrow"): (_C(64, 64, 4, 3), _C(64, 64, 8, 2), _C(64, 32, 8, 2), _C(64, 32, 8, 1)),
    ("sm_80", "grad_query", "sparse"): (_C(64, 32, 4, 3), _C(64, 32, 4, 3), _C(64, 32, 4, 2), _C(64, 32, 8, 1)),
    ("sm_80", "grad_query", "float32"): (_C(32, 32, 4, 2), _C(32, 32, 8, 2), _C(32, 16, 4, 2), _C(16, 16, 4, 2)),
    ("sm_80", "grad_key_value", "plain"): (_C(64, 64, 4, 3), _C(32, 64, 4, 3), _C(32, 64, 8, 2), _C(32, 32, 8, 2)),
    ("sm_80", "grad_key_value", "heavy"): (_C(32, 64, 8, 3), _C(32, 64, 8, 3), _C(16, 64, 8, 2), _C(32, 32, 8, 2)),
    ("sm_80", "grad_key_value", "narrow"): (_C(64, 64, 8, 3), _C(32, 64, 8, 2), _C(32, 64, 8, 2), _C(32, 32, 8, 2)),
    ("sm_80", "grad_key_value", "sparse"): (_C(32, 64, 8, 2), _C(32, 64, 8, 2), _C(32, 32, 8, 2), _C(32, 32, 8, 2)),
    ("sm_80", "grad_key_value", "float32"): (_C(32, 32, 4, 2), _C(32, 32, 8, 1), _C(16, 16, 4, 2), _C(16, 16, 4, 2)),
    ("sm_90", "forward", "plain"): (_C(128, 64, 4, 3), _C(128, 64, 4, 3), _C(128, 64, 8, 3), _C(128, 64, 8, 2)),
    ("sm_90", "forward", "heavy"): (_C(128, 64, 8, 3), _C(128, 64, 8, 3), _C(128, 64, 8, 2), _C(128, 32, 8, 2)),
    ("sm_90", "forward", "narrow"): (_C(64, 64, 4, 3), _C(64, 64, 4, 3), _C(64, 64, 4, 3), _C(64, 32, 4, 2)),
    ("sm_90", "forward", "sparse"): (_C(64, 64, 4, 3), _C(64, 64, 4, 3), _C(64, 32, 4, 3), _C(64, 32, 4, 2)),
    ("sm_90", "forward", "float32"): (_C(64, 32, 8, 2), _C(32, 16, 4, 2), _C(32, 16, 8, 2), _C(32, 16, 8, 2)),
    ("sm_90", "grad_query", "plain"): (_C(64, 64, 4, 3), _C(128, 64, 8, 3), _C(128, 64, 8, 2), _C(64, 32, 8, 2)),
    ("sm_90", "grad_query", "heavy"): (_C(64, 64, 4, 3), _C(64, 64, 4, 3), _C(64, 32, 8, 2), _C(64, 16, 8, 2)),
    ("sm_90", "grad_query", "narrow"): (_C(64, 64, 4, 3), _C(64, 64, 4, 3), _C(64, 64, 8, 2), _C(64, 32, 8, 2)),
    ("sm_90", "grad_query", "sparse"): (_C(64, 64, 4, 3), _C(64, 64, 4, 3), _C(64, 64, 8, 2), _C(64, 32, 8, 2)),
    ("sm_90", "grad_query", "float32"): (_C(32, 32, 4, 2), _C(32, 32, 8, 2), _C(32, 16, 4, 2), _C(16, 16, 4, 2)),
    ("sm_90", "grad_key_value", "plain"): (_C(64, 64, 4, 3), _C(64, 128, 8, 3), _C(32, 128, 8, 3), _C(32, 32, 8, 2)),
    ("sm_90", "grad_key_value", "heavy"): (_C(64, 64, 4, 3), _C(64, 64, 8, 3), _C(32, 64, 8, 2), _C(32, 32, 8, 2)),
    ("sm_90", "grad_key_value", "narrow"): (_C(64, 64, 4, 3), _C(64, 64, 8, 2), _C(32, 64, 8, 2), _C(32, 32, 8, 2)),
    ("sm_90", "grad_key_value", "sparse"): (_C(64, 64, 4, 3), _C(32, 64, 4, 1), _C(32, 64, 4, 2), _C(32, 32, 8, 2)),
    ("sm_90", "grad_key_value", "float32"): (_C(32, 32, 4, 2), _C(32, 32, 8, 2), _C(16, 32, 4, 2), _C(16, 16, 4, 2)),
    ("sm_100", "grad_key_value", "float32"): (_C(32, 32, 4, 2), _C(16, 32, 8, 2), _C(16, 32, 4, 2), _C(16, 16, 4, 2)),
}


def choose(problem: Problem, which: Pass) -> Configuration:
    """The configuration of one pass of this call on the device of its query."""
    return look_up(architecture(problem.query.device), which, kind(problem), problem.width)


def register_limit(problem: Problem) -> int | None:
    """Registers a thread may take; None = as ptxas thinks best, which for sm_100 is 128 and then spills."""
    return 255 if architecture(problem.query.device) == "sm_100" else None


def every_configuration() -> Iterator[tuple[str, Pass, Kind, int, Configuration]]:
    """The table: architecture, pass, kind, largest head width, configuration."""
    for arch in ARCHITECTURES:
        for which in PASSES:
            for of in KINDS:
                for width in WIDTHS:
                    yield arch, which, of, width, look_up(arch, which, of, width)


def in_one_pass(problem: Problem) -> bool:
    """Whether one program should compute all gradients of a sequence in one head, where such a kernel serves the call.

    That takes five products of matrices where two kernels take seven, and reads everything once, but it wants a program
    for every processor, and sequences whose keys are a single tile.
    """
    return problem.max_seqlen_k <= _ONE_TILE and problem.batch * problem.heads >= _ENOUGH_PROGRAMS


def look_up(arch: str, which: Pass, kind: Kind, width: int) -> Configuration:
    """The row of the table; an architecture without rows of its own has those of sm_90."""
    rows = _TABLE.get((arch, which, kind)) or _TABLE["sm_90", which, kind]
    return next(row for bound, row in zip(WIDTHS, rows, strict=True) if width <= bound)


def kind(problem: Problem) -> Kind:
    """What a program's tiles hold besides the products, and how far the mask lets them reach."""
    if problem.query.dtype == torch.float32:
        return "float32"
    if problem.blocks is not None or problem.global_tokens is not None:
        return "sparse"
    window = problem.left is not None and problem.right is not None and problem.left + problem.right < _NARROW
    if window or problem.max_seqlen_q <= _FEW:
        return "narrow"
    # a packed batch's programs hold the bounds of a sequence of their own
    heavy = (problem.bias, problem.diagonals, problem.softcap, problem.dropout_seed, problem.cu_seqlens_q)
    return "plain" if all(option is None for option in heavy) else "heavy"
