"""Learned feature maps: Hedgehog (Zhang et al. 2024, equation 6), T2R (Kasai et al. 2021). O(n F K)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minitrans.attention.feature_map import FeatureMechanism
from minitrans.attention.variant import LayerSizes


class Hedgehog(FeatureMechanism):
    """phi(x) = [softmax(W x); softmax(-W x)], a (K, K) map for the queries of each head and one for its keys, I at first.

    Args:
        sizes: of the block.
    """

    name = "hedgehog"

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__(sizes)
        eye = torch.eye(sizes.head_width).repeat(sizes.heads, 1, 1)
        self.query_map, self.key_map = nn.Parameter(eye.clone()), nn.Parameter(eye.clone())

    def features(self, x: Tensor, places: Tensor, of_keys: bool) -> Tensor:
        """Head by head, (B, H, T, 2 K)."""
        mapped = x @ (self.key_map if of_keys else self.query_map).to(x.dtype).mT
        return torch.cat([mapped.softmax(-1), (-mapped).softmax(-1)], dim=-1)


class T2R(Hedgehog):
    """phi(x) = relu(W x + b), W the identity and b a half at first."""

    name = "t2r"

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__(sizes)
        half = torch.full((2, sizes.heads, 1, sizes.head_width), 0.5)
        self.query_bias, self.key_bias = (nn.Parameter(each) for each in half.clone())

    def features(self, x: Tensor, places: Tensor, of_keys: bool) -> Tensor:
        """Head by head, (B, H, T, K)."""
        weight, bias = (self.key_map, self.key_bias) if of_keys else (self.query_map, self.query_bias)
        return torch.relu(x @ weight.to(x.dtype).mT + bias.to(x.dtype))
