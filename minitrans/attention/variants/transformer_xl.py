"""Relative positions of Transformer-XL (Dai et al. 2019, section 3.3): sinusoids of distances. + O(n² K)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minitrans.attention.added_bias import AddedBias
from minitrans.attention.bias import AttentionBias
from minitrans.attention.mask import distance
from minitrans.attention.variant import CallSizes, Identity, LayerSizes


class TransformerXL(AddedBias):
    """scale · [(q_i + u)·k_j + (q_i + v)·W r(i - j)], r the sinusoids; u, v and W are zero at first.

    Args:
        sizes: of the block.
    """

    name = "transformer_xl"
    identity = Identity()

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__(sizes)
        self.content = nn.Parameter(torch.zeros(sizes.heads, sizes.head_width))  # u
        self.position = nn.Parameter(torch.zeros(sizes.heads, sizes.head_width))  # v
        self.weight = nn.Parameter(torch.zeros(sizes.heads, sizes.head_width, sizes.width + sizes.width % 2))  # W

    def added(self, sizes: CallSizes) -> AttentionBias:
        """The other three terms."""
        return _Sinusoids(self.content, self.position, self.weight)


@dataclass(frozen=True, eq=False)
class _Sinusoids:
    content: Tensor
    position: Tensor
    weight: Tensor

    def to_dense(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        """(B, H, T, S)."""
        queries, keys = query.shape[2], key.shape[2]
        content, position, weight = (part.to(query.dtype) for part in (self.content, self.position, self.weight))
        half = weight.shape[-1] // 2
        # distances i - j from the largest to the smallest, so that of pair (i, j) stands at S - 1 - (i - j) - (S - T)
        behind = torch.arange(keys - 1, -max(keys, queries) - 1, -1, dtype=torch.float64, device=query.device)
        angles = behind[:, None] * 10000.0 ** (-torch.arange(half, device=query.device).double() / half)
        sinusoids = torch.cat([angles.sin(), angles.cos()], dim=-1).to(query.dtype)  # (distances, D)
        vectors = torch.einsum("hkd,rd->hkr", weight, sinusoids)
        products = (query + position[:, None]) @ vectors  # (B, H, T, distances)
        which = keys - 1 + distance(queries, keys, query.device)
        relative = products.gather(-1, which.expand(*products.shape[:3], -1))
        group = query.shape[1] // key.shape[1]
        to_keys = torch.einsum("hk,bhsk->bhs", content, key.repeat_interleave(group, dim=1))
        return scale * (relative + to_keys[:, :, None])
