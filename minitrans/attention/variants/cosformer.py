"""cosFormer: rectified queries and keys, and a cosine of the distance (Qin et al. 2022, equation 10). O(n K²)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minitrans.attention.feature_map import FeatureMechanism
from minitrans.attention.variant import LayerSizes


class CosFormer(FeatureMechanism):
    """phi(q_i)·phi(k_j) = relu(q_i)·relu(k_j) cos(π (i - j) / 2M), written as a sum of products of cosines and of sines.

    M is fixed, where the authors' code takes the length of the batch: so padding changes nothing.

    Args:
        sizes: of the block.
        reach: M, no less than the longest text; None = that of the model.
    """

    name = "cosformer"
    laws = ("linear in the values", "linear form = quadratic form")  # a row may be zero

    def __init__(self, sizes: LayerSizes, *, reach: int | None = None) -> None:
        super().__init__(sizes)
        reach = sizes.longest if reach is None else reach
        if reach is None or reach < 1:
            raise ValueError("cosformer needs the length of the longest text: {'name': 'cosformer', 'reach': 512}")
        self.reach = reach

    def features(self, x: Tensor, places: Tensor, of_keys: bool) -> Tensor:
        """(B, H, T, 2 K)."""
        if int(places.shape[0]) > self.reach:
            raise ValueError(f"cosformer reaches {self.reach} tokens, got {places.shape[0]}: choose a larger reach")
        angles = (places.to(x.dtype) * (math.pi / 2 / self.reach))[:, None]
        x = torch.relu(x)
        return torch.cat([x * angles.cos(), x * angles.sin()], dim=-1)
