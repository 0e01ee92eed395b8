"""Calls of `attention_weights_varlen`, and what they should give: the reference in float64, sequence by sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from minitrans_kernels import BlockLayout, RelativeBias
from minitrans_kernels.attention.reference import reference_attention
from torch import Tensor

H, G = 4, 2
# queries and keys of each sequence; each side longer than the other somewhere, and empty somewhere
OF_QUERY, OF_KEY = (5, 0, 19, 3, 2, 0), (9, 4, 7, 0, 70, 0)
SPARE = (2, 6)  # how much further than the longest sequence the maxima reach
LONGEST = (max(OF_QUERY) + SPARE[0], max(OF_KEY) + SPARE[1])
# of every sequence that has one, in no order, one twice, the first and the last
ROWS = torch.tensor([28, 0, 27, 24, 5, 23, 4, 8, 28, 14, 26, 1])

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scale": {"scale": -0.3},
    "causal": {"causal": True},
    "window": {"window": (3, 5)},
    "window, global tokens": {"window": (1, 2), "global_tokens": True},
    "blocks": {"block_layout": 5},
    "bias": {"bias": (1, H)},
    "bias for each sequence": {"bias": (len(OF_KEY), 1)},
    "distances, softcap": {"relative_bias": True, "alibi_slopes": True, "softcap": 3.0},
}
OPTIONS["everything"] = {name: value for options in OPTIONS.values() for name, value in options.items()}


@dataclass(frozen=True)
class PackedWeights:
    """A call and its result.

    Attributes:
        tensors: q (N, H, K), k (M, G, K) and lse (N, H) of the attention.
        boundaries: cu_seqlens_q and cu_seqlens_k.
        options: the keyword arguments.
        expected: (H, N, M) float64 probabilities of all rows.
    """

    tensors: tuple[Tensor, Tensor, Tensor]
    boundaries: tuple[Tensor, Tensor]
    options: dict[str, Any]
    expected: Tensor


def draw(name: str, width: int, dtype: torch.dtype, *, strided: bool = False) -> PackedWeights:
    """The call with these options; `strided`: heads apart in memory, as no projection gives them."""
    torch.manual_seed(0)
    q, k = (torch.randn(heads, sum(of), width).to(dtype).transpose(0, 1) for of, heads in ((OF_QUERY, H), (OF_KEY, G)))
    if not strided:
        q, k = q.contiguous(), k.contiguous()
    starts_q, starts_k = (torch.tensor([0, *of]).cumsum(0).to(torch.int32) for of in (OF_QUERY, OF_KEY))
    options = _drawn(OPTIONS[name], dtype)
    lse = torch.empty(sum(OF_QUERY), H, dtype=torch.float64)
    probabilities = torch.zeros(H, sum(OF_QUERY), sum(OF_KEY), dtype=torch.float64)
    for number, (queries, keys) in enumerate(zip(OF_QUERY, OF_KEY, strict=True)):
        own_q, own_k = (slice(int(starts[number]), int(starts[number + 1])) for starts in (starts_q, starts_k))
        told = {key: _local(key, value, number, queries, keys, own_k) for key, value in options.items()}
        query, key = (tensor.double().transpose(0, 1)[None] for tensor in (q[own_q], k[own_k]))
        if keys:
            _, of_rows, weights = reference_attention(query, key, key, **told)
            probabilities[:, own_q, own_k] = weights[0]
            lse[own_q] = of_rows[0].T
        else:
            lse[own_q] = -torch.inf
    lse = lse.to(torch.promote_types(dtype, torch.float32))
    return PackedWeights((q, k, lse), (starts_q, starts_k), options, probabilities)


def _drawn(given: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The options with tensors in the place of the shapes and sizes in `OPTIONS`."""
    options = dict(given)
    if "global_tokens" in options:
        options["global_tokens"] = torch.rand(sum(OF_KEY)) < 0.2
    if "block_layout" in options:
        size = options["block_layout"]
        grid = [-(-length // size) for length in LONGEST]
        options["block_layout"] = BlockLayout(torch.rand(H, *grid) < 0.5, size)
    if "bias" in options:
        options["bias"] = torch.randn(*options["bias"], *LONGEST).to(dtype)
    if "relative_bias" in options:
        options["relative_bias"] = RelativeBias(torch.randn(8, H).to(dtype), True, 11)
    if "alibi_slopes" in options:
        options["alibi_slopes"] = torch.rand(H).to(dtype)
    return options


def _local(name: str, value: Any, number: int, queries: int, keys: int, own_k: slice) -> Any:
    """An option as the reference takes it for one sequence."""
    if name == "bias":
        return value[number if value.shape[0] > 1 else 0][None, :, :queries, :keys].double()
    if name == "global_tokens":
        return value[None, own_k]
    if name == "relative_bias":
        return RelativeBias(value.table.double(), value.bidirectional, value.max_distance)
    if name == "block_layout":
        return BlockLayout(value.allowed[:, : -(-queries // value.size), : -(-keys // value.size)], value.size)
    return value.double() if isinstance(value, Tensor) else value
