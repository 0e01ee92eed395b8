"""Value residual: the values of the first layer are added in all others (Zhou et al. 2024, "Value Residual Learning")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minitrans.attention.context import Context
from minitrans.attention.variant import Identity, LayerSizes, Variant


class ValueResidual(Variant):
    """v + lambda v_1, lambda learned in each layer, 0 at first; v_1 are the values of the first layer that has this variant.

    Args:
        sizes: of the block.
    """

    name = "value_residual"
    identity = Identity()
    laws = ("rows sum to one", "linear in the values")

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__(sizes)
        self.share = nn.Parameter(torch.zeros(()))  # lambda

    def project(self, query: Tensor, key: Tensor, value: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Values with those of the first layer; queries and keys as they are."""
        # by its number the first layer knows itself also where a checkpointed pass is run again
        layer, first = context.shared.setdefault(self.name, (self.sizes.layer, value))
        return query, key, value if layer == self.sizes.layer else value + self.share * first
