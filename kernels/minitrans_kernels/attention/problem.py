"""A checked attention call in the one form that the Triton and the PyTorch path both take."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Problem:
    """What to compute. Query i of T stands at position i + S - T; a distance is key position minus query position.

    Attributes:
        query: (B, H, T, K), or packed (N, H, K).
        key: (B, G, S, K), or packed (M, G, K); G divides H.
        value: as key.
        cu_seqlens_q: (B + 1) int32, packed only: sequence b is tokens cu_seqlens_q[b] .. cu_seqlens_q[b + 1] - 1.
        cu_seqlens_k: likewise for keys.
        max_seqlen_q: T, or at least the longest query sequence of a packed batch.
        max_seqlen_k: S, or at least the longest key sequence.
        key_padding: (B, S) bool, True = may be attended to; None in a packed batch.
        global_tokens: (B, S) bool, or packed (M).
        blocks: (H|1, ceil(T / block_size), ceil(S / block_size)) bool.
        block_size: tokens a block; 0 without blocks.
        bias: (B|1, H|1, T, S), in a packed batch indexed by position within the sequence.
        diagonals: (H, T + S - 1) float32, added where the distance is d at index d + S - 1 (T, S the maxima of a packed batch).
        causal: whether a query sees no key to its right.
        left: keys a query sees to its left; None = all.
        right: to its right.
        scale: factor of query times key.
        softcap: c of c * tanh(x / c); None = none.
        dropout_p: probability with which a probability is dropped.
        dropout_seed: (1) int64 on the device of the query; None without dropout.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    cu_seqlens_q: Tensor | None
    cu_seqlens_k: Tensor | None
    max_seqlen_q: int
    max_seqlen_k: int
    key_padding: Tensor | None
    global_tokens: Tensor | None
    blocks: Tensor | None
    block_size: int
    bias: Tensor | None
    diagonals: Tensor | None
    causal: bool
    left: int | None
    right: int | None
    scale: float
    softcap: float | None
    dropout_p: float
    dropout_seed: Tensor | None

    @property
    def packed(self) -> bool:
        """Whether sequences lie end to end."""
        return self.cu_seqlens_q is not None

    @property
    def batch(self) -> int:
        """B."""
        return self.query.shape[0] if self.cu_seqlens_q is None else self.cu_seqlens_q.shape[0] - 1

    @property
    def heads(self) -> int:
        """H."""
        return self.query.shape[1]

    @property
    def key_heads(self) -> int:
        """G."""
        return self.key.shape[1]

    @property
    def width(self) -> int:
        """K."""
        return self.query.shape[-1]

    def shape_of_rows(self, rows: Tensor) -> tuple[int, ...]:
        """(B, H, R, S), or packed (R, H, max_seqlen_k): of the probabilities of query rows (R) or (B, R)."""
        count = rows.shape[-1]
        outer = (count, self.heads) if self.packed else (self.batch, self.heads, count)
        return (*outer, self.max_seqlen_k)


def sequences_of(tokens: Tensor, boundaries: Tensor) -> Tensor:
    """The number of the sequence that each token belongs to; below 0 before the first sequence, B and above after the last.

    Args:
        tokens: indices of packed tokens, any shape, int64.
        boundaries: (B + 1) int32, cumulative lengths.
    """
    return torch.searchsorted(boundaries.to(tokens.dtype), tokens.contiguous(), right=True) - 1
