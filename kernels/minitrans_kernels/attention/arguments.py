"""What a call may be given: checked on the host before anything is launched, and brought into the form of a `Problem`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from minitrans_kernels.attention.diagonals import RelativeBias, diagonals
from minitrans_kernels.attention.problem import Problem
from minitrans_kernels.dropout import seed_tensor
from minitrans_kernels.runtime import runs_on_triton

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_NARROWEST, _WIDEST = 16, 256
_SEEDS = 2**62


class BlockLayout(NamedTuple):
    """A block-sparse pattern: query block a may attend to key block b where `allowed[h, a, b]`.

    Attributes:
        allowed: (H|1, ceil(T / size), ceil(S / size)) bool; in a packed batch by position within the sequence.
        size: tokens per block.
    """

    allowed: Tensor
    size: int


@dataclass(frozen=True, eq=False)
class Options:
    """The keyword arguments that the attention calls share, as given."""

    key_padding: Tensor | None
    causal: bool
    window: tuple[int | None, int | None] | None
    global_tokens: Tensor | None
    block_layout: tuple[Tensor, int] | None
    bias: Tensor | None
    relative_bias: tuple[Tensor, bool, int] | None
    alibi_slopes: Tensor | None
    scale: float | None
    softcap: float | None
    dropout_p: float = 0.0
    dropout_seed: int | Tensor | None = None


def rectangles(q: Tensor, k: Tensor, v: Tensor, options: Options) -> Problem:
    """The problem of q (B, H, T, K), k and v (B, G, S, K).

    Raises:
        ValueError, TypeError: where something does not fit.
    """
    _check_tokens(q, k, v, "(B, H, T, K)", "(B, G, S, K)")
    if q.shape[0] != k.shape[0]:
        raise ValueError(f"q and k must have the same batch size, got {q.shape[0]} and {k.shape[0]}")
    batch, queries, keys = q.shape[0], q.shape[2], k.shape[2]
    _check_bool("key_padding", options.key_padding, {"B": batch, "S": keys}, q)
    _check_bool("global_tokens", options.global_tokens, {"B": batch, "S": keys}, q)
    return _problem(q, k, v, options, batch=batch, queries=queries, keys=keys)


def packed(
    q: Tensor, k: Tensor, v: Tensor, boundaries: tuple[Tensor, Tensor], longest: tuple[int, int], options: Options
) -> Problem:
    """The problem of q (N, H, K), k and v (M, G, K), with cu_seqlens and max_seqlen of queries and keys.

    Raises:
        ValueError, TypeError: where something does not fit.
    """
    _check_tokens(q, k, v, "(N, H, K)", "(M, G, K)")
    for side, cu_seqlens, max_seqlen, tokens in zip("qk", boundaries, longest, (q, k), strict=True):
        name = f"cu_seqlens_{side}"
        _check_tensor(name, cu_seqlens, q)
        if cu_seqlens.dtype != torch.int32 or cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 1:
            raise ValueError(f"{name} must be a (B + 1) int32 tensor, got {tuple(cu_seqlens.shape)} {cu_seqlens.dtype}")
        if isinstance(max_seqlen, bool) or not isinstance(max_seqlen, int | torch.SymInt):
            raise TypeError(f"max_seqlen_{side} must be an int, got {type(max_seqlen).__name__}")
        if max_seqlen < (1 if tokens.shape[0] else 0):
            raise ValueError(
                f"max_seqlen_{side} must be the longest length or more, got {max_seqlen} for {tokens.shape[0]} tokens"
            )
    sequences = [cu_seqlens.shape[0] - 1 for cu_seqlens in boundaries]
    if sequences[0] != sequences[1]:
        raise ValueError(
            f"cu_seqlens_q and cu_seqlens_k must have the same length, got {sequences[0] + 1} and {sequences[1] + 1}"
        )
    _check_bool("global_tokens", options.global_tokens, {"M": k.shape[0]}, q)
    return _problem(
        q, k, v, options, batch=sequences[0], queries=longest[0], keys=longest[1],
        cu_seqlens_q=boundaries[0].contiguous(), cu_seqlens_k=boundaries[1].contiguous(),
    )  # fmt: skip


def check_rows(rows: Tensor, lse: Tensor, problem: Problem) -> None:
    """Checks what `attention_rows` and `attention_rows_varlen` take besides.

    Rows out of range are found on the CPU only: elsewhere looking would wait.

    Raises:
        ValueError, TypeError: where something does not fit.
    """
    q = problem.query
    _check_tensor("lse", lse, q)
    _check_tensor("rows", rows, q)
    wide = torch.promote_types(q.dtype, torch.float32)
    if lse.shape != q.shape[:-1] or lse.dtype != wide:
        call, shape = ("attention_varlen", "(N, H)") if problem.packed else ("attention", "(B, H, T)")
        raise ValueError(
            f"lse must be what {call}(return_lse=True) returned, {shape} = {tuple(q.shape[:-1])} {wide}, "
            f"got {tuple(lse.shape)} {lse.dtype}"
        )
    if rows.dtype != torch.int64:
        raise TypeError(f"rows must be int64, got {rows.dtype}")
    of_each = rows.dim() == 2 and rows.shape[0] == problem.batch and not problem.packed
    if rows.dim() != 1 and not of_each:
        expected = "(R)" if problem.packed else f"(R) or (B, R) with B={problem.batch}"
        raise ValueError(f"rows must be {expected}, got shape {tuple(rows.shape)}")


def _problem(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    options: Options,
    *,
    batch: int,
    queries: int,
    keys: int,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
) -> Problem:
    heads = q.shape[1]
    if not isinstance(options.causal, bool):
        raise TypeError(f"causal must be a bool, got {type(options.causal).__name__}")
    left, right = _window(options.window)
    blocks, block_size = _blocks(options.block_layout, heads, queries, keys, q)
    _check_bias(options.bias, (batch, heads, queries, keys), q)
    relative_bias = _relative_bias(options.relative_bias, heads, q)
    if options.alibi_slopes is not None:
        _check_floating("alibi_slopes", options.alibi_slopes, q)
        if options.alibi_slopes.shape != (heads,):
            raise ValueError(f"alibi_slopes must be (H) = ({heads}), got shape {tuple(options.alibi_slopes.shape)}")
    scale = q.shape[-1] ** -0.5 if options.scale is None else _number("scale", options.scale)
    softcap = None if options.softcap is None else _number("softcap", options.softcap)
    if softcap is not None and softcap <= 0:
        raise ValueError(f"softcap must be above 0, got {softcap}; None is no softcap")
    dropout_p, seed = _dropout(options.dropout_p, options.dropout_seed, q)
    return Problem(
        query=q, key=k, value=v, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k,
        max_seqlen_q=queries, max_seqlen_k=keys, key_padding=options.key_padding, global_tokens=options.global_tokens,
        blocks=blocks, block_size=block_size, bias=options.bias,
        diagonals=diagonals(
            queries, keys, relative_bias, options.alibi_slopes, torch.promote_types(q.dtype, torch.float32)
        ),
        causal=options.causal, left=left, right=right, scale=scale, softcap=softcap,
        dropout_p=dropout_p, dropout_seed=seed,
    )  # fmt: skip


def _check_tokens(q: Tensor, k: Tensor, v: Tensor, queries: str, keys: str) -> None:
    for name, tensor, expected in (("q", q, queries), ("k", k, keys), ("v", v, keys)):
        _check_tensor(name, tensor, q)
        if tensor.dim() != expected.count(",") + 1:
            raise ValueError(f"{name} must be {expected}, got shape {tuple(tensor.shape)}")
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"{name} must be float32, bfloat16, float16 or float64, got {tensor.dtype}")
        if tensor.dtype != q.dtype:
            raise TypeError(f"q, k and v must have the same dtype, got {q.dtype} for q and {tensor.dtype} for {name}")
    if q.dtype == torch.float64 and runs_on_triton(q):
        raise TypeError(
            f"q is float64 on {q.device}, where Triton kernels compute float32, bfloat16 or float16; "
            f"convert it, or move it to the CPU, where the PyTorch path computes float64"
        )
    if k.shape != v.shape:
        raise ValueError(f"k and v must have the same shape, got {tuple(k.shape)} and {tuple(v.shape)}")
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q and k must have the same head width, got {q.shape[-1]} and {k.shape[-1]}")
    if not _NARROWEST <= q.shape[-1] <= _WIDEST:
        raise ValueError(f"the head width of q must be in {_NARROWEST}..{_WIDEST}, got {q.shape[-1]}")
    if k.shape[1] == 0 or q.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(f"the heads of k must divide those of q, got {k.shape[1]} and {q.shape[1]}")


def _check_tensor(name: str, tensor: Tensor, q: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if tensor.device != q.device:
        raise ValueError(f"{name} is on {tensor.device}, q is on {q.device}; they must be on one device")


def _check_bool(name: str, tensor: Tensor | None, sizes: dict[str, int], q: Tensor) -> None:
    if tensor is None:
        return
    _check_tensor(name, tensor, q)
    if tensor.dtype != torch.bool:
        raise TypeError(f"{name} must be a bool tensor, got {tensor.dtype}; write mask.bool() for a 0/1 mask")
    if tensor.shape != tuple(sizes.values()):
        expected = ", ".join(f"{letter}={size}" for letter, size in sizes.items())
        raise ValueError(f"{name} must be ({', '.join(sizes)}) with {expected}, got shape {tuple(tensor.shape)}")


def _check_floating(name: str, tensor: Tensor, q: Tensor) -> None:
    _check_tensor(name, tensor, q)
    if tensor.dtype not in _DTYPES:
        raise TypeError(f"{name} must be floating point, got {tensor.dtype}")


def _check_bias(bias: Tensor | None, sizes: tuple[int, int, int, int], q: Tensor) -> None:
    if bias is None:
        return
    _check_tensor("bias", bias, q)
    if bias.dtype not in (q.dtype, torch.float32):
        hint = "; a bool mask is no bias: use key_padding or -inf" if bias.dtype == torch.bool else ""
        raise TypeError(f"bias must be float32 or the dtype of q, {q.dtype}, got {bias.dtype}{hint}")
    batch, heads, queries, keys = sizes
    fits = bias.dim() == 4 and bias.shape[0] in (1, batch) and bias.shape[1] in (1, heads)
    if not fits or bias.shape[2:] != (queries, keys):
        raise ValueError(
            f"bias must be (B|1, H|1, T, S) with B={batch}, H={heads}, T={queries}, S={keys}, "
            f"got shape {tuple(bias.shape)}"
        )


def _relative_bias(given: tuple[Tensor, bool, int] | None, heads: int, q: Tensor) -> RelativeBias | None:
    if given is None:
        return None
    if not isinstance(given, Sequence) or not 1 <= len(given) <= 3:
        raise TypeError(
            f"relative_bias must be RelativeBias(table, bidirectional, max_distance), got {type(given).__name__}"
        )
    relative = RelativeBias(*given)
    table = relative.table
    _check_floating("relative_bias.table", table, q)
    if table.dim() != 2 or table.shape[1] != heads:
        raise ValueError(f"relative_bias.table must be (buckets, H) with H={heads}, got shape {tuple(table.shape)}")
    sides = 2 if relative.bidirectional else 1
    if table.shape[0] < 2 * sides or table.shape[0] % sides:
        raise ValueError(
            f"relative_bias.table must have {'an even number of at least 4' if sides == 2 else 'at least 2'} buckets, "
            f"got {table.shape[0]}"
        )
    exact = table.shape[0] // sides // 2
    if relative.max_distance <= exact:
        raise ValueError(
            f"relative_bias.max_distance must be above {exact}, the distances that have a bucket each, "
            f"got {relative.max_distance}"
        )
    return relative


def _window(window: tuple[int | None, int | None] | None) -> tuple[int | None, int | None]:
    if window is None:
        return None, None
    sides = tuple(window) if isinstance(window, Sequence) else ()
    if len(sides) != 2 or not all(side is None or _is_int(side) for side in sides):
        raise TypeError(f"window must be (left, right), two ints or None for unbounded, got {window!r}")
    if any(side is not None and side < 0 for side in sides):
        raise ValueError(f"window must hold distances of at least 0, got {window!r}")
    return sides[0], sides[1]


def _blocks(
    layout: tuple[Tensor, int] | None, heads: int, queries: int, keys: int, q: Tensor
) -> tuple[Tensor | None, int]:
    if layout is None:
        return None, 0
    if not isinstance(layout, Sequence) or len(layout) != 2 or not _is_int(layout[1]):
        raise TypeError(f"block_layout must be BlockLayout(allowed, size), got {type(layout).__name__}")
    allowed, size = layout
    if size < 1:
        raise ValueError(f"block_layout.size must be at least 1, got {size}")
    _check_tensor("block_layout.allowed", allowed, q)
    if allowed.dtype != torch.bool:
        raise TypeError(f"block_layout.allowed must be a bool tensor, got {allowed.dtype}")
    grid = (-(-queries // size), -(-keys // size))
    if allowed.dim() != 3 or allowed.shape[0] not in (1, heads) or allowed.shape[1:] != grid:
        raise ValueError(
            f"block_layout.allowed must be (H|1, {grid[0]}, {grid[1]}) for H={heads}, T={queries}, S={keys}, "
            f"size={size}, got shape {tuple(allowed.shape)}"
        )
    return allowed, size


def _dropout(p: float, seed: int | Tensor | None, q: Tensor) -> tuple[float, Tensor | None]:
    p = _number("dropout_p", p)
    if not 0.0 <= p < 1.0:
        raise ValueError(f"dropout_p must be in [0, 1), got {p}")
    if p == 0.0:
        return p, None
    if seed is None:
        return p, torch.randint(_SEEDS, (1,), dtype=torch.int64, device=q.device)
    if isinstance(seed, Tensor):
        _check_tensor("dropout_seed", seed, q)
    return p, seed_tensor(seed, q.device)


def _number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not -math.inf < value < math.inf:  # in words that a compiler can follow for a number it does not know
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


def _is_int(value: object) -> bool:
    return isinstance(value, int | torch.SymInt) and not isinstance(value, bool)
