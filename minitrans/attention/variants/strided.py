"""Strided attention: the last `stride` tokens and every stride-th (Child et al. 2019, "Sparse Transformers"). O(n √n K)."""

from __future__ import annotations

from torch import Tensor

from minitrans.attention.pattern import Pattern
from minitrans.attention.variant import Identity, LayerSizes


class Strided(Pattern):
    """i sees j where |i - j| < stride or i - j is a multiple of stride; under a causal mask the paper's pattern.

    Args:
        sizes: of the block.
        stride: near √n, so that both parts cost the same.
    """

    name = "strided"
    trial = {"stride": 3}
    identity = Identity({"stride": 10**6})

    def __init__(self, sizes: LayerSizes, *, stride: int = 16) -> None:
        super().__init__(sizes)
        if not isinstance(stride, int) or stride < 1:
            raise ValueError(f"stride must be a number of at least 1, got {stride!r}")
        self.stride = stride

    def allows(self, i: Tensor, j: Tensor, n: Tensor) -> Tensor:
        """The neighbours and the stride."""
        return ((i - j).abs() < self.stride) | ((i - j) % self.stride == 0)
