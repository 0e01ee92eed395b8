"""Additive scores: numbers added to scale * q·k before the softmax, each with gradients to its parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from minitrans.attention.mask import distance, fits


class AttentionBias(Protocol):
    """Anything that can say what it adds to the scores of a query/key pair."""

    def to_dense(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        """(B|1, H|1, T, S) for query (B, H, T, K) and key (B, G, S, K), in the dtype of the query.

        `scale` is the factor of the scores, for biases that are themselves products with the query (relative keys).
        """
        ...


@dataclass(frozen=True, eq=False)
class DenseBias:
    """Scores given outright: (B|1, H|1, T, S), floating point.

    In a packed batch (1, H|1, N, N), of which the pairs of the same sequence count.
    """

    values: Tensor

    def __post_init__(self) -> None:
        if not self.values.is_floating_point() or self.values.dim() != 4:
            got = f"{tuple(self.values.shape)} {self.values.dtype}; a bool tensor is a mask: AttentionMask(dense=...)"
            raise TypeError(f"DenseBias needs a floating-point (B|1, H|1, T, S) tensor, got {got}")

    def to_dense(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        """The values themselves."""
        batch, heads, query_length, key_length = *query.shape[:3], key.shape[2]
        if not fits(self.values, (batch, heads, query_length, key_length)):
            sizes = f"B={batch}, H={heads}, T={query_length}, S={key_length}, got {tuple(self.values.shape)}"
            raise ValueError(f"DenseBias must be (B|1, H|1, T, S) with {sizes}")
        return self.values.to(query.dtype)


@dataclass(frozen=True, eq=False)
class ALiBi:
    """-slope_h * |i - j|: a penalty that grows with the distance (Press et al. 2022, "Train Short, Test Long").

    The symmetric form, which encoders need; under a causal mask it is the paper's.

    Attributes:
        slopes: (H) floating point.
    """

    slopes: Tensor

    @staticmethod
    def default_slopes(heads: int) -> Tensor:
        """(H) float32: the paper's geometric sequence 2^(-8h/H); for other counts than powers of two, interleaved."""
        power = 2 ** math.floor(math.log2(heads))
        slopes = [2.0 ** (-8 * h / power) for h in range(1, power + 1)]
        slopes += [2.0 ** (-4 * h / power) for h in range(1, 2 * (heads - power), 2)]
        return torch.tensor(slopes)

    def to_dense(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        """(1, H, T, S)."""
        self.check(query.shape[1])
        gap = distance(query.shape[2], key.shape[2], query.device).abs()
        return (-self.slopes.to(query.dtype)[:, None, None] * gap)[None]

    def check(self, heads: int) -> None:
        """Raises ValueError where there is not one slope a head."""
        if self.slopes.shape != (heads,):
            raise ValueError(f"ALiBi needs one slope a head, H={heads}, got shape {tuple(self.slopes.shape)}")


@dataclass(frozen=True, eq=False)
class RelativeBuckets:
    """A learned score per head and bucket of distance (Raffel et al. 2020, "T5", section 2.1).

    Half of the buckets hold one distance each, the other half grow logarithmically up to `max_distance`; bidirectional
    tables give one half of the buckets to each side (T2).

    Attributes:
        table: (buckets, H).
    """

    table: Tensor
    bidirectional: bool = True
    max_distance: int = 128

    def buckets(self, ahead: Tensor) -> Tensor:
        """The bucket of each distance `ahead` = key position - query position; int64 of any shape."""
        count = self.table.shape[0]
        if self.bidirectional:
            count //= 2
            offset = (ahead > 0) * count
            gap = ahead.abs()
        else:
            offset = torch.zeros_like(ahead)
            gap = (-ahead).clamp(min=0)
        exact = count // 2
        # float32, as in the original: where log(gap) falls on the border of two buckets its rounding decides
        growth = torch.log(gap.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        far = (exact + (growth * (count - exact)).long()).clamp(max=count - 1)
        return offset + torch.where(gap < exact, gap, far)

    def to_dense(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        """(1, H, T, S)."""
        self.check(query.shape[1])
        scores = self.table[self.buckets(distance(query.shape[2], key.shape[2], query.device))]  # (T, S, H)
        return scores.permute(2, 0, 1)[None].to(query.dtype)

    def check(self, heads: int) -> None:
        """Raises ValueError where the table is not for this number of heads."""
        if self.table.dim() != 2 or self.table.shape[1] != heads:
            raise ValueError(f"RelativeBuckets needs a (buckets, H={heads}) table, got {tuple(self.table.shape)}")


@dataclass(frozen=True, eq=False)
class RelativePositions:
    """A learned vector per distance, times the query (Shaw et al. 2018), optionally also the key (Huang et al. 2020).

    BERT's `relative_key` and `relative_key_query`: scale * q_i·E[i - j] (+ scale * k_j·E[i - j]) (M8).

    Attributes:
        table: (2P - 1, K) for distances -(P - 1) .. P - 1.
        with_key: add the product with the key too.
    """

    table: Tensor
    with_key: bool = False

    def to_dense(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        """(B, H, T, S)."""
        self.check(max(query.shape[2], key.shape[2]), query.shape[3])
        ahead = distance(query.shape[2], key.shape[2], query.device)
        vectors = self.table.to(query.dtype)[self.positions - 1 - ahead]  # (T, S, K)
        scores = torch.einsum("bhtk,tsk->bhts", query, vectors)
        if self.with_key:
            key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)  # (B, H, S, K)
            scores = scores + torch.einsum("bhsk,tsk->bhts", key, vectors)
        return scores * scale

    @property
    def positions(self) -> int:
        """P, the longest sequence that the table serves."""
        return (self.table.shape[0] + 1) // 2

    def check(self, longest: int, width: int) -> None:
        """Raises ValueError where the table does not fit the head width K or a sequence of this length."""
        if self.table.dim() != 2 or self.table.shape[1] != width:
            raise ValueError(f"RelativePositions needs a (2P - 1, K={width}) table, got {tuple(self.table.shape)}")
        if longest > self.positions:
            raise ValueError(f"relative positions reach {self.positions} tokens, got {longest}")


@dataclass(frozen=True, eq=False)
class SummedBias:
    """Two biases at once."""

    first: AttentionBias
    second: AttentionBias

    def to_dense(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        """(B|1, H|1, T, S)."""
        return self.first.to_dense(query, key, scale) + self.second.to_dense(query, key, scale)


@dataclass(frozen=True, eq=False)
class BiasOfBeginning:
    """A bias of the first `length` keys: what lies behind them is not written yet, and a mask hides it."""

    bias: AttentionBias
    length: int

    def to_dense(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        """(B|1, H|1, T, S), 0 behind the beginning."""
        written = self.bias.to_dense(query, key[:, :, : self.length], scale)
        return pad(written, (0, key.shape[2] - self.length))


def summed(bias: AttentionBias | None, own: AttentionBias) -> AttentionBias:
    """Both, or the one there is."""
    return own if bias is None else SummedBias(bias, own)
