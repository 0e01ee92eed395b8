"""Linear attention with the feature map elu + 1 (Katharopoulos et al. 2020, equation 7). O(n K²)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import elu

from minitrans.attention.feature_map import FeatureMechanism


class LinearAttention(FeatureMechanism):
    """phi(x) = elu(x) + 1. With `alibi` before it in a list, the decay of LION-d; with `forgetting`, that of LION-s."""

    name = "linear"

    def features(self, x: Tensor, places: Tensor, of_keys: bool) -> Tensor:
        """Number by number."""
        return elu(x) + 1
