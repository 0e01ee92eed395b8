"""Native sparse attention: blocks in summary, the best blocks, and a window, mixed by gates (Yuan et al. 2025, "Native Sparse
Attention", equations 5 to 11). O(n² K) here, O(n (n / b + k b + w) K) in kernels."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from minitrans.attention.mask import distance
from minitrans.attention.rules import AttentionRules
from minitrans.attention.variant import Identity, LayerSizes
from minitrans.attention.variants.block_top_k import BlockTopK


class NativeSparse(BlockTopK):
    """sum over three branches of c · sigmoid(x W) times attention to block means, to the k best blocks, to a window.

    The branches share keys and values, which are pretrained here; a block's summary is the mean of what the query may see
    of it, in both directions. c, learned for each head, is (0, 0, 2) and W zero at first: the window alone.

    Args:
        sizes: of the block.
        window: even width in tokens, half to each side.
        k: blocks a query sees, its own included.
        size: of a block, in tokens.
    """

    name = "native_sparse"
    trial = {"window": 2, "k": 2, "size": 2}
    identity = Identity({"window": 10**6})
    laws: ClassVar[tuple[str, ...]] = ("linear in the values",)

    def __init__(self, sizes: LayerSizes, *, window: int, k: int = 3, size: int = 64) -> None:
        super().__init__(sizes, k=k, size=size)
        if not isinstance(window, int) or window < 2 or window % 2:
            raise ValueError(f"window must be an even number of at least 2, got {window!r}")
        self.side = window // 2
        self.gate = nn.Linear(sizes.width, 3 * sizes.heads)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)
        self.strength = nn.Parameter(torch.tensor([0.0, 0.0, 2.0])[:, None].repeat(1, sizes.heads))  # c

    def weights(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """(3, B, H, T, S): those of each branch."""
        members = self.members(scores, allowed)  # (B|1, H|1, S, blocks)
        means, seen = self.means(scores, allowed, members)  # (B, H, T, blocks)
        of_blocks = torch.softmax(means.masked_fill((seen == 0) & (seen > 0).any(-1, keepdim=True), -torch.inf), dim=-1)
        in_summary = of_blocks / seen.clamp(min=1) @ members.mT
        near = allowed & (distance(scores.shape[-2], scores.shape[-1], scores.device).abs() <= self.side)
        windowed = torch.softmax(scores.masked_fill(~(near | ~near.any(-1, keepdim=True)), -torch.inf), dim=-1) * near
        return torch.stack([in_summary, super().weights(scores, allowed), windowed])

    def reweigh(self, weights: Tensor, key: Tensor, rules: AttentionRules) -> Tensor:
        """The branches, mixed."""
        assert rules.x is not None
        gates = torch.unflatten(torch.sigmoid(self.gate(rules.x)), -1, (3, -1)) * self.strength  # (B, T, 3, H)
        return torch.einsum("nbhts,btnh->bhts", weights, gates)
