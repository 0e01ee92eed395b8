"""Attention to the best blocks: MoBA (Lu et al. 2025, equations 5 and 6), the selection of NSA (Yuan et al. 2025). O(n² K) here,
O(n (n / b + k b) K) in kernels."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from minitrans.attention.dense import DenseMechanism
from minitrans.attention.variant import Identity, LayerSizes


class BlockTopK(DenseMechanism):
    """A query sees its own block and the k - 1 others of which its mean score is the highest, which is q · mean(k).

    The mean is over the keys that it may attend to, so a block of which it may see a part is judged by that part.

    Args:
        sizes: of the block.
        k: blocks a query sees, its own included.
        size: of a block, in tokens.
    """

    name = "block_top_k"
    trial = {"k": 2, "size": 2}
    identity = Identity({"k": 10**6})
    laws: ClassVar[tuple[str, ...]] = ("rows sum to one", "linear in the values")

    def __init__(self, sizes: LayerSizes, *, k: int = 3, size: int = 64) -> None:
        super().__init__(sizes)
        if k < 1 or size < 1:
            raise ValueError(f"k and size must be at least 1, got {k} and {size}")
        self.k, self.size = k, size

    def weights(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """Softmax over the chosen blocks."""
        members = self.members(scores, allowed)
        means, seen = self.means(scores, allowed, members)
        queries, keys = scores.shape[-2:]
        places = torch.arange(keys - queries, keys, device=scores.device).clamp(min=0)
        own = members[:, :, places].bool()  # the block of each query
        means = means.masked_fill(seen == 0, -torch.inf).masked_fill(own, torch.inf)
        best = means.topk(min(self.k, means.shape[-1]), dim=-1).indices
        chosen = torch.zeros_like(means).scatter(-1, best, 1.0) @ members.mT > 0
        chosen = chosen & allowed
        return torch.softmax(scores.masked_fill(~(chosen | ~chosen.any(-1, keepdim=True)), -torch.inf), dim=-1) * chosen

    def members(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """(B|1, H|1, S, blocks): 1 where a key lies in a block."""
        keys = scores.shape[-1]
        first = allowed.any(dim=-2).int().argmax(dim=-1, keepdim=True)  # (B|1, H|1, 1)
        block = (torch.arange(keys, device=scores.device) - first).clamp(min=0) // self.size  # (B|1, H|1, S)
        return (block[..., None] == torch.arange(-(-keys // self.size), device=scores.device)).to(scores.dtype)

    def means(self, scores: Tensor, allowed: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
        """The mean score of each block (B, H, T, blocks), and of how many keys (B|1, H|1, T, blocks)."""
        seen = allowed.expand(*allowed.shape[:2], *scores.shape[-2:]).to(scores.dtype) @ members
        return scores.masked_fill(~allowed, 0.0) @ members / seen.clamp(min=1), seen
