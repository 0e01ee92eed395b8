"""Based: the second order of the exponential's series as a feature map (Arora et al. 2024, section 4.1). O(n K³)."""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans.attention.feature_map import FeatureMechanism


class Taylor(FeatureMechanism):
    """phi(q)·phi(k) = 1 + s + s² / 2, which is positive; phi(x) = [1; x; x ⊗ x / √2]."""

    name = "taylor"

    def features(self, x: Tensor, places: Tensor, of_keys: bool) -> Tensor:
        """(B, H, T, 1 + K + K²)."""
        squares = (x[..., :, None] * x[..., None, :]).flatten(-2) * 2**-0.5
        return torch.cat([torch.ones_like(x[..., :1]), x, squares], dim=-1)
