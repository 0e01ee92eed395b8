"""Top-k attention: softmax over the k largest scores of each row (Gupta et al. 2021, "Memory-efficient Transformers via Top-k
Attention"). O(n² K)."""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans.attention.dense import DenseMechanism
from minitrans.attention.variant import Identity, LayerSizes


class TopK(DenseMechanism):
    """What is not among the k largest is as if forbidden; of equal scores at the border all stay.

    Args:
        sizes: of the block.
        k: keys a query keeps.
    """

    name = "top_k"
    trial = {"k": 2}
    identity = Identity({"k": 10**6})
    laws = ("rows sum to one", "linear in the values")

    def __init__(self, sizes: LayerSizes, *, k: int = 32) -> None:
        super().__init__(sizes)
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"k must be a number of at least 1, got {k!r}")
        self.k = k

    def weights(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """The k-th score is the least that counts."""
        least = scores.topk(min(self.k, scores.shape[-1]), dim=-1).values[..., -1:]
        return torch.softmax(scores.masked_fill(scores < least, -torch.inf), dim=-1)
