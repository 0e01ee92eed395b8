"""Attention to the best blocks: MoBA (Lu et al. 2025, equations 5 and 6), the selection of NSA (Yuan et al. 2025). O(n² K) here,
O(n (n / b + k b) K) in kernels."""

from __future__ import annotations

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
    laws = ("rows sum to one", "linear in the values")

    def __init__(self, sizes: LayerSizes, *, k: int = 3, size: int = 64) -> None:
        super().__init__(sizes)
        if k < 1 or size < 1:
            raise ValueError(f"k and size must be at least 1, got {k} and {size}")
        self.k, self.size = k, size

    def weights(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """Softmax over the chosen blocks."""
        queries, keys = scores.shape[-2:]
        first = allowed.any(dim=-2, keepdim=True).int().argmax(dim=-1, keepdim=True)  # (B|1, H|1, 1, 1)
        places = torch.arange(keys, device=scores.device)
        block = (places - first).clamp(min=0) // self.size  # (B|1, H|1, 1, S)
        own = (
            places[keys - queries :, None] if queries <= keys else torch.arange(keys - queries, keys)[:, None]
        ) - first
        own = own.clamp(min=0) // self.size  # (B|1, H|1, T, 1)
        count = -(-keys // self.size)
        members = (block[..., None] == torch.arange(count, device=scores.device)).to(
            scores.dtype
        )  # (B|1, H|1, 1, S, blocks)
        members = members.squeeze(2)
        seen = allowed.expand(*allowed.shape[:2], queries, keys).to(scores.dtype) @ members  # (B|1, H|1, T, blocks)
        means = scores.masked_fill(~allowed, 0.0) @ members / seen.clamp(min=1)
        is_own = own == torch.arange(count, device=scores.device)
        means = means.masked_fill(seen == 0, -torch.inf).masked_fill(is_own, torch.inf)
        best = means.topk(min(self.k, count), dim=-1).indices
        chosen = torch.zeros_like(means, dtype=torch.bool).scatter(-1, best, True)
        chosen = chosen.gather(-1, block.expand(*scores.shape))
        chosen = chosen & allowed
        return torch.softmax(scores.masked_fill(~(chosen | ~chosen.any(-1, keepdim=True)), -torch.inf), dim=-1) * chosen
