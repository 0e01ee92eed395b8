"""Attention calls with any mixture of options, and what they should give: the reference in float64, sequence by sequence."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from minitrans_kernels.attention.arguments import DIFFERENTIABLE, AttentionArgs
from minitrans_kernels.attention.reference import reference_attention
from minitrans_kernels.dropout import dropout_mask
from torch import Tensor

SEED = torch.tensor([7])
Tiles = Callable[..., None]


def pairwise(choices: dict[str, tuple[Any, ...]], allowed: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Cases in which every two values of any two options meet, where that is allowed."""
    draw = random.Random(0)
    names = list(choices)
    places = list(itertools.combinations(range(len(names)), 2))

    def case(indices: list[int]) -> dict[str, Any]:
        return {name: choices[name][index] for name, index in zip(names, indices, strict=True)}

    left = {
        (a, x, b, y) for a, b in places for x in range(len(choices[names[a]])) for y in range(len(choices[names[b]]))
    }
    cases = []
    while left:
        a, x, b, y = min(left)
        best, most = None, set[tuple[int, int, int, int]]()
        for _ in range(60):
            indices = [draw.randrange(len(choices[name])) for name in names]
            indices[a], indices[b] = x, y
            found = {(c, indices[c], d, indices[d]) for c, d in places} & left
            if len(found) > len(most) and allowed(case(indices)):
                best, most = indices, found
        left -= most | {(a, x, b, y)}  # a pair that no case has is one that is not allowed
        if best is not None:
            cases.append(case(best))
    return cases


def name_of(case: dict[str, Any]) -> str:
    return "-".join(f"{name}={value}" for name, value in case.items() if value not in (None, False, 0.0)).replace(
        " ", ""
    )


def attention_args(
    *, lengths: tuple[int, int] = (19, 37), packed: bool = False, batch: int = 2, heads: tuple[int, int] = (2, 2),
    width: int = 16, dtype: torch.dtype = torch.float32, padding: str | None = None, causal: bool = False,
    window: tuple[int | None, int | None] = (None, None), global_tokens: bool = False, blocks: str | None = None,
    bias: tuple[int, int] | str | None = None, distance_bias: bool = False, softcap: float | None = None,
    dropout_p: float = 0.0, scale: float | None = None, strides: str = "contiguous", seed: int = 0,
) -> AttentionArgs:  # fmt: skip
    """A call of random tensors. Packed: sequences of the lengths given, of none on either side, and in between."""
    draw = torch.Generator().manual_seed(seed)
    (queries, keys), (h, g) = lengths, heads
    starts: list[Tensor | None] = [None, None]
    if packed:
        of_query, of_key = ([queries, 0, 3, queries // 2 + 1], [keys, 4, 0, keys // 2 + 1])
        starts = [torch.tensor([0, *itertools.accumulate(of)], dtype=torch.int32) for of in (of_query, of_key)]
        batch, queries, keys = 4, queries + 2, keys + 5  # the longest may be overestimated
        shapes = [(sum(of_query), h, width), (sum(of_key), g, width), (sum(of_key), g, width)]
    else:
        shapes = [(batch, h, queries, width), (batch, g, keys, width), (batch, g, keys, width)]
    query, key, value = (_laid_out(shape, dtype, strides, draw) for shape in shapes)
    size = 5
    grid = (-(-queries // size), -(-keys // size))
    added = None
    if bias is not None:
        shape = (
            (1, h)
            if isinstance(bias, str)
            else tuple({0: 1, 1: of}[chosen] for chosen, of in zip(bias, (batch, h), strict=True))
        )
        added = torch.randn(*shape, queries, keys, generator=draw, dtype=dtype)
        if bias == "-inf":
            added[..., torch.rand(keys, generator=draw) < 0.3] = -torch.inf
        if bias == "one row":
            added = added[:, :, :1].expand(-1, -1, queries, -1)
    flags = (starts[1][-1],) if starts[1] is not None else (batch, keys)
    return AttentionArgs(
        query=query, key=key, value=value, cu_seqlens_q=starts[0], cu_seqlens_k=starts[1],
        max_seqlen_q=queries, max_seqlen_k=keys, key_padding=_padding(padding, batch, keys, draw),
        global_tokens=torch.rand(*flags, generator=draw) < 0.1 if global_tokens else None,
        blocks=None if blocks is None else torch.rand(*((batch, h) if blocks == "each" else (1, 1)), *grid, generator=draw) < 0.4,
        block_size=0 if blocks is None else size, bias=added,
        distance_bias=torch.randn(h, queries + keys - 1, generator=draw) if distance_bias else None,
        causal=causal, left=window[0], right=window[1], scale=width**-0.5 if scale is None else scale,
        softcap=softcap, dropout_p=dropout_p, dropout_seed=SEED if dropout_p else None,
    )  # fmt: skip


def _laid_out(shape: tuple[int, ...], dtype: torch.dtype, strides: str, draw: torch.Generator) -> Tensor:
    """(..., H, T, K) or packed (N, H, K) random numbers, in memory of another shape."""
    if strides == "heads apart":  # as a projection gives them, or for a packed batch the contrary
        return torch.randn(*shape[:-3], shape[-2], shape[-3], shape[-1], generator=draw, dtype=dtype).transpose(-2, -3)
    if strides == "every other":
        return torch.randn(*shape[:-1], 2 * shape[-1], generator=draw, dtype=dtype)[..., ::2]
    if strides == "columns first":
        return torch.randn(*shape[:-2], shape[-1], shape[-2], generator=draw, dtype=dtype).transpose(-2, -1)
    if strides == "one head":
        memory = list(shape)
        memory[-3 if len(shape) == 4 else -2] = 1
        return torch.randn(*memory, generator=draw, dtype=dtype).expand(shape)
    return torch.randn(*shape, generator=draw, dtype=dtype)


def _padding(kind: str | None, batch: int, keys: int, draw: torch.Generator) -> Tensor | None:
    real = torch.ones(batch, keys, dtype=torch.bool)
    if kind is None:
        return None
    if kind == "holes":
        real = torch.rand(batch, keys, generator=draw) < 0.7
    if kind == "all of one":
        real[0] = False
    if kind == "right":
        real[0, keys // 2 :] = False
    if kind == "left":
        real[0, : keys // 2] = False
        real[1, : min(16, keys - 1)] = False
    return real


@dataclass(frozen=True)
class Result:
    """Output, log-sum-exp, and the gradients of query, key, value, bias, distance bias."""

    out: Tensor
    lse: Tensor
    gradients: tuple[Tensor | None, ...]


def upstream(call: AttentionArgs) -> tuple[Tensor, Tensor]:
    """Gradients of output and log-sum-exp."""
    draw = torch.Generator().manual_seed(1)
    return (
        torch.randn(call.query.shape, generator=draw, dtype=call.query.dtype),
        torch.randn(call.query.shape[:-1], generator=draw),
    )


def expected(call: AttentionArgs, dtype: torch.dtype, grad_lse: bool = True) -> Result:
    """What the reference gives in `dtype`, with gradients by automatic differentiation."""
    inputs = [
        None if (x := getattr(call, name)) is None else x.detach().to(dtype).requires_grad_() for name in DIFFERENTIABLE
    ]
    out, lse = _reference(replace(call, **dict(zip(DIFFERENTIABLE, inputs, strict=True))))
    of_out, of_lse = (upstream(call)[0].to(dtype), upstream(call)[1].to(dtype))
    total = (out * of_out).sum()
    if grad_lse:
        total = total + torch.where(lse == -torch.inf, 0.0, lse * of_lse).sum()
    present = [x for x in inputs if x is not None]
    found = dict(zip(map(id, present), torch.autograd.grad(total, present, allow_unused=True), strict=True))
    gradients = tuple(
        None if x is None else torch.zeros_like(x) if found[id(x)] is None else found[id(x)] for x in inputs
    )
    return Result(out.detach(), lse.detach(), gradients)


def _reference(call: AttentionArgs) -> tuple[Tensor, Tensor]:
    kept = None
    if call.dropout_p:
        kept = dropout_mask((call.batch, call.heads, call.max_seqlen_q, call.max_seqlen_k), call.dropout_p, SEED)
    if call.cu_seqlens_q is None or call.cu_seqlens_k is None:
        return _one(call, call.query, call.key, call.value, call.key_padding, call.global_tokens, call.bias, kept)
    outs, lses = [], []
    sequences = zip(
        *(itertools.pairwise(starts.tolist()) for starts in (call.cu_seqlens_q, call.cu_seqlens_k)), strict=True
    )
    for number, ((q, q_end), (k, k_end)) in enumerate(sequences):
        if q_end == q or k_end == k:
            outs.append(call.query[q:q_end] * 0)
            lses.append(call.query[q:q_end, :, 0] * 0 - torch.inf)
            continue
        local = (slice(None), slice(None), slice(q_end - q), slice(k_end - k))
        bias = (
            None
            if call.bias is None
            else call.bias[number : number + 1 or None][local]
            if call.bias.shape[0] > 1
            else call.bias[local]
        )
        tensors = [
            x[None, begin:end].transpose(1, 2)
            for x, begin, end in ((call.query, q, q_end), (call.key, k, k_end), (call.value, k, k_end))
        ]
        glob = None if call.global_tokens is None else call.global_tokens[None, k:k_end]
        own = call
        if call.blocks is not None and call.blocks.shape[0] > 1:
            own = replace(call, blocks=call.blocks[number : number + 1])
        out, lse = _one(own, *tensors, None, glob, bias, None if kept is None else kept[number : number + 1][local])
        outs.append(out[0].transpose(0, 1))
        lses.append(lse[0].transpose(0, 1))
    return torch.cat(outs), torch.cat(lses)


def _one(
    call: AttentionArgs, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, global_tokens: Tensor | None,
    bias: Tensor | None, kept: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The reference on (B, H, T, K); a distance bias is given to it as a dense one."""
    queries, keys = query.shape[2], key.shape[2]
    if call.distance_bias is not None:
        distance = torch.arange(keys)[None] - torch.arange(queries)[:, None] - (keys - queries)
        dense = call.distance_bias[None, :, distance + call.max_seqlen_k - 1]
        bias = dense if bias is None else bias + dense
    out, lse, _ = reference_attention(
        query, key, value, key_padding=padding, causal=call.causal, window=(call.left, call.right),
        global_tokens=global_tokens, block_layout=None if call.blocks is None else (call.blocks, call.block_size),
        bias=bias, scale=call.scale, softcap=call.softcap, dropout_p=call.dropout_p, kept=kept,
    )  # fmt: skip
    return out, lse


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fresh tensors are full of NaN, or of a number that is no index."""

    def poisoned(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def poison(*args: Any, **kwargs: Any) -> Tensor:
            tensor = allocate(*args, **kwargs)
            return tensor.fill_(torch.nan if tensor.is_floating_point() else 2**30 + 1)

        return poison

    with (
        patch.object(torch, "empty", poisoned(torch.empty)),
        patch.object(torch, "empty_like", poisoned(torch.empty_like)),
    ):
        yield


def assert_close(name: str, got: Tensor, exact: Tensor, eager: Tensor, factor: float, floor: float) -> None:
    """Error at most `factor` times that of `eager`, the same maths in the same type, each against float64; and `floor`.

    The floor is for what eager has exactly: few numbers, by chance, or differences of equal ones.
    """
    assert got.shape == exact.shape, name
    infinite = torch.isinf(exact)
    assert torch.equal(torch.where(infinite, exact, 0.0), torch.where(infinite, got.double(), 0.0)), name
    assert got.isfinite().logical_or(infinite).all(), name
    if got.numel():
        got, exact, eager = (torch.where(infinite, 0.0, x.double()) for x in (got, exact, eager))
        error, peer = (got - exact).abs().max(), (eager - exact).abs().max()
        assert error <= factor * peer + floor, f"{name}: {error:.3g} off, eager {peer:.3g}, floor {floor:.3g}"
