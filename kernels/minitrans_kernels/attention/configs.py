"""Which tile sizes a kernel runs with: one table, so that results are the same bits on every run and every start is quick.

`use_tiles` tries others; with MINITRANS_AUTOTUNE=1 the first launch of a call times a row's neighbours. Which of them wins
is a matter of chance where they are close, so that results may then differ by rounding between processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final, Literal, NamedTuple, get_args

import torch

from minitrans_kernels.attention.arguments import AttentionArgs
from minitrans_kernels.runtime import ARCHITECTURES, architecture

Pass = Literal["forward", "grad_query", "grad_key_value", "short_backward", "bias_gradients", "attention_weights"]
Kind = Literal["plain", "heavy", "narrow", "sparse", "dropout", "float32"]


class Configuration(NamedTuple):
    """Queries and keys of a tile, warps of a program, stages of its software pipeline.

    `block_k` is for bias gradients, whose tiles are square: the columns of the head loaded at a time.
    """

    block_m: int
    block_n: int
    warps: int
    stages: int
    block_k: int = 16


Run = Callable[[Configuration], None]

# the passes and kinds that have a row for each architecture
PASSES: Final[tuple[Pass, ...]] = ("forward", "grad_query", "grad_key_value")
KINDS: Final[tuple[Kind, ...]] = ("plain", "heavy", "narrow", "sparse", "float32")
WIDTHS: Final = (32, 64, 128, 256)
# all the registers a thread can have: left to itself the assembler may spill to fit more programs on a processor
REGISTERS: Final = 255
# a window of fewer keys, or fewer queries, would leave most of a large tile empty
_NARROW: Final = 512
_FEW: Final = 64
_ONE_TILE: Final = 128
_ENOUGH_PROGRAMS: Final = 128
# one program a sequence: so long at most; the matrix unit multiplies 64 rows at a time, and dQᵀ has K of them
_SHORT: Final = 512
_SHORT_WIDTHS: Final = range(33, 65)

_C = Configuration
# columns: head widths up to 32, 64, 128, 256; or one for all
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
    # five products' worth of tiles must fit the registers, which on sm_80 hold the operands too: there no row serves
    ("sm_90", "short_backward", "plain"): (_C(32, 128, 8, 2),),
    ("sm_90", "short_backward", "dropout"): (_C(32, 128, 8, 1),),
    ("sm_90", "short_backward", "heavy"): (_C(32, 64, 8, 1),),
    ("sm_100", "short_backward", "plain"): (_C(32, 64, 8, 1),),
    ("sm_100", "short_backward", "dropout"): (_C(32, 64, 8, 1),),
    ("sm_100", "short_backward", "heavy"): (_C(32, 64, 8, 1),),
    ("sm_80", "bias_gradients", "plain"): (*(_C(32, 32, 4, 2, 64),) * 3, _C(16, 16, 4, 1, 32)),
    ("sm_90", "bias_gradients", "plain"): (*(_C(64, 64, 8, 2, 64),) * 3, _C(64, 64, 8, 1, 64)),
    ("sm_100", "bias_gradients", "plain"): (*(_C(64, 64, 8, 2, 64),) * 2, *(_C(64, 64, 8, 1, 64),) * 2),
    ("sm_90", "bias_gradients", "float32"): (_C(16, 16, 4, 1, 16),),
    # each product is done once and its tile written out. 64 rows are the least that Hopper's matrix instructions take; true
    # float32 has none, and would run out of registers
    ("sm_90", "attention_weights", "plain"): (_C(64, 64, 4, 1),),
    ("sm_90", "attention_weights", "float32"): (_C(16, 32, 4, 1),),
}
# what `use_tiles` put in the place of the table
_TRIED: Final[dict[Pass, Configuration]] = {}
_FOUND: Final[dict[tuple[object, ...], Configuration]] = {}


@contextmanager
def use_tiles(**tiles: tuple[int, ...]) -> Iterator[None]:
    """Other tiles than the table's, in this process, while the block runs.

    For instance `with use_tiles(forward=(64, 64, 4, 3), grad_query=(64, 32, 8, 2)): ...`

    Args:
        tiles: a pass and its `Configuration`: queries and keys of a tile, powers of two, warps, stages. Passes are forward,
            grad_query, grad_key_value, short_backward, bias_gradients and attention_weights.

    Raises:
        ValueError: where there is no such pass, or a size is no power of two.
    """
    unknown = tiles.keys() - set(get_args(Pass))
    if unknown:
        raise ValueError(f"use_tiles: expected passes of {', '.join(get_args(Pass))}, got {min(unknown)!r}")
    checked = {which: _checked(Configuration(*numbers), f"use_tiles({which}=...)") for which, numbers in tiles.items()}
    before = dict(_TRIED)
    _TRIED.update(checked)  # type: ignore[arg-type]
    try:
        yield
    finally:
        _TRIED.clear()
        _TRIED.update(before)


def choose(args: AttentionArgs, which: Pass) -> Configuration:
    """The configuration of one pass of this call on the device of its query."""
    return _TRIED.get(which) or look_up(architecture(args.query.device), which, kind(args, which), args.width)


@cache
def look_up(arch: str, which: Pass, kind: Kind, width: int) -> Configuration:
    """The row of the table; an architecture without rows of its own has those of sm_90.

    Raises:
        ValueError: where the row holds what no kernel can be compiled for.
    """
    key = (arch, which, kind) if (arch, which, kind) in _TABLE else ("sm_90", which, kind)
    columns = _TABLE[key]
    place = next(place for place, bound in enumerate(WIDTHS) if width <= bound)
    return _checked(columns[min(place, len(columns) - 1)], f"row {key}, head widths up to {WIDTHS[place]}")


def _checked(tile: Configuration, row: str) -> Configuration:
    for name, size in tile._asdict().items():
        least = {"warps": 1, "stages": 1}.get(name, 16)
        if size < least or (name != "stages" and size & (size - 1)):
            power = "at least" if name == "stages" else "a power of two of at least"
            raise ValueError(f"{row}: {name} must be {power} {least}, got {size} in {tile}")
    return tile


def every_configuration() -> Iterator[tuple[str, Pass, Kind, int, Configuration]]:
    """The rows that each architecture has: architecture, pass, kind, largest head width, configuration."""
    for arch in ARCHITECTURES:
        for which in PASSES:
            for of in KINDS:
                for width in WIDTHS:
                    yield arch, which, of, width, look_up(arch, which, of, width)


def kind(args: AttentionArgs, which: Pass) -> Kind:
    """What a program's tiles hold besides the products, and how far the mask lets them reach."""
    added = (args.bias, args.distance_bias, args.softcap)
    if which == "short_backward":
        masks = (args.left, args.right, args.blocks, args.global_tokens)
        if any(option is not None for option in (*added, *masks)):
            return "heavy"
        return "plain" if args.dropout_seed is None else "dropout"
    if args.query.dtype == torch.float32:
        return "plain" if which == "attention_weights" and precision(args) != "ieee" else "float32"
    if which not in PASSES:
        return "plain"
    if args.blocks is not None or args.global_tokens is not None:
        return "sparse"
    window = args.left is not None and args.right is not None and args.left + args.right < _NARROW
    if window or args.max_seqlen_q <= _FEW:
        return "narrow"
    # a packed batch's programs hold the bounds of a sequence of their own
    heavy = (*added, args.dropout_seed, args.cu_seqlens_q)
    return "plain" if all(option is None for option in heavy) else "heavy"


def precision(args: AttentionArgs) -> str:
    """How float32 is multiplied: as float32, unless PyTorch was told that less will do."""
    exact = args.query.dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest"
    return "ieee" if exact else "tf32"


def register_limit(args: AttentionArgs) -> int | None:
    """Registers a thread may take; None = as ptxas thinks best, which for sm_100 is 128 and then spills."""
    return REGISTERS if architecture(args.query.device) == "sm_100" else None


def in_one_pass(args: AttentionArgs) -> bool:
    """Whether one program should compute all gradients of a sequence in one head, where such a kernel serves the call.

    That takes five products of matrices where two kernels take seven, and reads everything once, but it wants a program
    for every processor, and sequences whose keys are a single tile.
    """
    return args.max_seqlen_k <= _ONE_TILE and args.batch * args.heads >= _ENOUGH_PROGRAMS and serves_short(args)


def serves_short(args: AttentionArgs) -> bool:
    """Whether `short_backward_kernel` computes this call.

    It wants T and S of at most 512, K from 33 to 64, half precision, as many key/value heads as heads, and sm_90 or newer.
    """
    return (
        max(args.max_seqlen_q, args.max_seqlen_k) <= _SHORT
        and args.width in _SHORT_WIDTHS
        and args.query.dtype != torch.float32
        and args.heads == args.key_heads
        and (architecture(args.query.device), "short_backward", "plain") in _TABLE
    )


def tuned(args: AttentionArgs, which: Pass, run: Run) -> Configuration:
    """`choose`, or where MINITRANS_AUTOTUNE=1 asks for it the fastest of that and its neighbours.

    Not where `use_tiles` said which, on a CPU, or while a graph is captured.

    Args:
        args: the call.
        which: the pass.
        run: launches the pass with a configuration.
    """
    start = choose(args, which)
    asked = os.environ.get("MINITRANS_AUTOTUNE", "0") == "1" and which not in _TRIED
    if not asked or not args.query.is_cuda or torch.cuda.is_current_stream_capturing():
        return start
    return fastest(args, which, start, lambda tile: _milliseconds(run, tile))


def fastest(
    args: AttentionArgs, which: Pass, start: Configuration, time: Callable[[Configuration], float]
) -> Configuration:
    """Of `start` and its neighbours, for calls like this one; timed once for each power of two of the sizes."""
    sizes = (args.batch * args.heads, args.max_seqlen_q, args.max_seqlen_k)
    key = (
        args.query.device, args.query.dtype, which, kind(args, which), args.width, args.causal, args.packed,
        *(size.bit_length() for size in sizes),
    )  # fmt: skip
    if key not in _FOUND:
        _FOUND[key] = min(neighbours(start), key=time)
    return _FOUND[key]


def neighbours(start: Configuration) -> Iterator[Configuration]:
    """`start` and what differs from it in one number."""
    yield start
    for name in ("block_m", "block_n"):
        size = getattr(start, name)
        yield from (start._replace(**{name: other}) for other in (size // 2, size * 2) if 16 <= other <= 256)
    yield start._replace(warps=4 if start.warps == 8 else 8)
    yield from (start._replace(stages=stages) for stages in (start.stages - 1, start.stages + 1) if 1 <= stages <= 4)


def _milliseconds(run: Run, tile: Configuration) -> float:
    """Of a launch on the current device, the median; inf where it does not fit."""
    from triton.runtime.errors import OutOfResources
    from triton.testing import do_bench

    try:
        milliseconds: float = do_bench(lambda: run(tile), warmup=5, rep=30, return_mode="median")
    except OutOfResources:
        return float("inf")
    return milliseconds
