"""Reformer's attention by locality-sensitive hashing (Kitaev et al. 2020, equations 2 to 4). O(n² K) here, O(n log n) sorted."""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans.attention.dense import DenseMechanism, forbid
from minitrans.attention.rules import AttentionRules
from minitrans.attention.scores import dense_scores
from minitrans.attention.variant import Identity, LayerSizes


class LSH(DenseMechanism):
    """i sees j where some round hashes q_i and k_j into one bucket, argmax of [x R; -x R], and always sees itself.

    Queries and keys are hashed by the same rotations R, drawn by seed and layer: no parameters. The paper has one
    projection for both, and sorts and cuts the buckets into chunks, which leaves out far members of large ones.

    Args:
        sizes: of the block.
        buckets: even number.
        rounds: hashes.
        seed: of the rotations.
    """

    name = "lsh"
    trial = {"buckets": 4, "rounds": 1}
    identity = Identity({"buckets": 2, "rounds": 300}, limit="rounds to infinity")
    laws = ("rows sum to one", "linear in the values")
    rotations: Tensor

    def __init__(self, sizes: LayerSizes, *, buckets: int = 16, rounds: int = 4, seed: int = 0) -> None:
        super().__init__(sizes)
        if buckets < 2 or buckets % 2 or rounds < 1:
            raise ValueError(f"buckets must be an even number and rounds at least 1, got {buckets} and {rounds}")
        generator = torch.Generator().manual_seed(seed * 1009 + sizes.layer)
        rotations = torch.randn(rounds, sizes.head_width, buckets // 2, generator=generator)
        self.register_buffer("rotations", rotations, persistent=False)

    def scores(self, query: Tensor, key: Tensor, rules: AttentionRules) -> Tensor:
        """-inf where no round agrees."""
        queries, keys = query.shape[2], key.shape[2]
        mine, theirs = (self.hashed(x) for x in (query, key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)))
        itself = (
            torch.arange(keys, device=query.device) == torch.arange(keys - queries, keys, device=query.device)[:, None]
        )
        same = itself.expand(*query.shape[:3], -1)
        for own, other in zip(mine, theirs, strict=True):
            same = same | (own[..., :, None] == other[..., None, :])
        return dense_scores(query, key, rules).masked_fill(~same, -torch.inf)

    def hashed(self, x: Tensor) -> Tensor:
        """(B, H, T, K) -> (rounds, B, H, T) int64."""
        turned = torch.einsum("bhtk,rkc->rbhtc", x, self.rotations.to(x.dtype))
        return torch.cat([turned, -turned], dim=-1).argmax(dim=-1)

    def weights(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """A row in which nothing agrees, nor is itself allowed, is empty."""
        seen = allowed & (scores > -torch.inf)
        return torch.softmax(forbid(scores.masked_fill(~seen, -1.0), seen), dim=-1).masked_fill(~seen, 0.0)

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """Buckets do not shrink with a scale."""
        another = rules.scale_for(query) != query.shape[-1] ** -0.5
        return "another scale than K ** -0.5" if another else super().supports(rules, query)
