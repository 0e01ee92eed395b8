"""Synthesizer: scores that are no products of queries and keys (Tay et al. 2020, sections 3.1 and 3.2). O(n² K)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minitrans.attention.dense import DenseMechanism
from minitrans.attention.rules import AttentionRules
from minitrans.attention.scores import dense_scores
from minitrans.attention.variant import Identity, LayerSizes
from minitrans.attention.whole import first_real, too_long


class SynthesizerRandom(DenseMechanism):
    """scores + R, one learned number for each pair of places and head, 0 at first (the paper's mixture "Random + Vanilla").

    Args:
        sizes: of the block.
        alone: R in the place of the scores.
    """

    name = "synthesizer_random"
    identity = Identity()
    laws = ("rows sum to one", "linear in the values")

    def __init__(self, sizes: LayerSizes, *, alone: bool = False) -> None:
        super().__init__(sizes)
        if sizes.longest is None:
            raise ValueError(f"{self.name} has scores for texts of a fixed length: the model must have a longest one")
        self.alone = alone
        self.table = nn.Parameter(torch.zeros(sizes.heads, self.rows, sizes.longest))

    @property
    def rows(self) -> int:
        """Of the table."""
        assert self.sizes.longest is not None
        return self.sizes.longest

    def scores(self, query: Tensor, key: Tensor, rules: AttentionRules) -> Tensor:
        """(B, H, T, S): by places counted from the first real token."""
        queries, keys = query.shape[2], key.shape[2]
        real = rules.mask.key_padding
        first = torch.zeros(1, dtype=torch.long, device=query.device) if real is None else first_real(real)
        j = (torch.arange(keys, device=query.device) - first[:, None]).clamp(min=0)  # (B|1, S)
        i = (torch.arange(keys - queries, keys, device=query.device) - first[:, None]).clamp(min=0)  # (B|1, T)
        made = self.synthesized(query, i, j, rules.scale_for(query))
        return made.expand(len(query), -1, -1, -1) if self.alone else made + dense_scores(query, key, rules)

    def synthesized(self, query: Tensor, i: Tensor, j: Tensor, scale: float) -> Tensor:
        """(B|1, H, T, S)."""
        return self.table[:, i[:, :, None], j[:, None, :]].transpose(0, 1).to(query.dtype)

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """No texts longer than the table; scores of its own have no cap."""
        capped = "softcap" if self.alone and rules.softcap is not None else None
        return too_long(self.table.shape[2], rules, query) or capped or super().supports(rules, query)


class SynthesizerDense(SynthesizerRandom):
    """scores + scale · relu(q_i) W, the query alone says whom to see; W (K, longest) for each head, 0 at first.

    The paper's relu(x W1 + b) W2, with the block's projection of queries as W1.
    """

    name = "synthesizer_dense"

    @property
    def rows(self) -> int:
        """Of the table, K."""
        return self.sizes.head_width

    def synthesized(self, query: Tensor, i: Tensor, j: Tensor, scale: float) -> Tensor:
        """(B, H, T, S)."""
        made = torch.relu(query) @ self.table.to(query.dtype) * scale  # (B, H, T, longest)
        return made.gather(-1, j[:, None, None].expand(*query.shape[:3], -1))
