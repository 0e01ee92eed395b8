"""Sparse projections of scores: sparsemax (Martins and Astudillo 2016), entmax-1.5 (Peters et al. 2019). O(n² (K + log n))."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from minitrans.attention.dense import DenseMechanism


class _Projection(DenseMechanism):
    """The keys of a row, sorted, give the threshold below which weights are zero."""

    laws = ("rows sum to one", "linear in the values")

    @abstractmethod
    def threshold(self, sums: Tensor, squares: Tensor, count: Tensor) -> Tensor:
        """The threshold if the first `count` of the sorted scores z were those that count.

        Args:
            sums: of these z.
            squares: of these z².
            count: how many.
        """

    def support(self, z: Tensor) -> Tensor:
        """The threshold (..., 1) of scores with maximum 0, with its gradient."""
        ordered = z.sort(dim=-1, descending=True).values
        count = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
        every = self.threshold(ordered.cumsum(-1), ordered.square().cumsum(-1), count)
        size = (every < ordered).sum(dim=-1, keepdim=True).clamp(min=1)
        return every.gather(-1, size - 1)


class Sparsemax(_Projection):
    """The nearest point of the simplex: relu(s - tau), with tau such that a row sums to one."""

    name = "sparsemax"

    def weights(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """Scores one below the maximum have no weight for sure."""
        z = (scores - scores.amax(dim=-1, keepdim=True)).clamp(min=-1.0)
        return torch.relu(z - self.support(z))

    def threshold(self, sums: Tensor, squares: Tensor, count: Tensor) -> Tensor:
        """tau = (sum of z - 1) / k."""
        return (sums - 1) / count


class Entmax15(_Projection):
    """relu(s / 2 - tau)², halfway between softmax and sparsemax."""

    name = "entmax15"

    def weights(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """Scores two below the maximum have no weight for sure."""
        z = ((scores - scores.amax(dim=-1, keepdim=True)) / 2).clamp(min=-1.0)
        return torch.relu(z - self.support(z)).square()

    def threshold(self, sums: Tensor, squares: Tensor, count: Tensor) -> Tensor:
        """tau = mean - √((1 - k variance) / k)."""
        mean = sums / count
        spread = squares - count * mean.square()
        left = (1 - spread) / count
        # past the support there may be nothing to take the root of; the gradient of what is not used must stay finite
        return mean - torch.where(left > 0, left, 1.0).sqrt().where(left > 0, 0.0)
