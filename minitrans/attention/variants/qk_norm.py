"""Query-key normalisation (Henry et al. 2020; here as Qwen3 has it): scores cannot grow with the lengths of q and k."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from minitrans.attention.context import Context
from minitrans.attention.variant import LayerSizes, Variant


class QueryKeyNorm(Variant):
    """Each query and key is divided by its root mean square and multiplied by a learned vector (K), one for each kind.

    Args:
        sizes: of the block.
        eps: added to the mean of squares, inside the root.
    """

    name = "qk_norm"

    def __init__(self, sizes: LayerSizes, *, eps: float = 1e-6) -> None:
        super().__init__(sizes)
        self.eps = eps
        self.query_weight = nn.Parameter(torch.ones(sizes.head_width))
        self.key_weight = nn.Parameter(torch.ones(sizes.head_width))

    def project(self, query: Tensor, key: Tensor, value: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys normed; values as they are."""
        return self.norm(query, self.query_weight), self.norm(key, self.key_weight), value

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """(..., K) -> (..., K); the mean of squares in at least float32 (T1)."""
        wide = x if x.dtype == torch.float64 else x.float()
        return weight * rms_norm(wide, weight.shape, eps=self.eps).to(x.dtype)
