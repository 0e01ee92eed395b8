"""Attention with linear biases: a penalty that grows with the distance (Press et al. 2022, "ALiBi"). No cost of its own."""

from __future__ import annotations

from torch import Tensor, nn

from minitrans.attention.added_bias import AddedBias
from minitrans.attention.bias import ALiBi, AttentionBias
from minitrans.attention.variant import CallSizes, Identity, LayerSizes


class LinearBiases(AddedBias):
    """score - slope_h |i - j|, symmetric; under a causal mask the paper's.

    Args:
        sizes: of the block.
        factor: of the paper's slopes 2^(-8h/H).
        learned: whether the slopes are parameters (H).
    """

    name = "alibi"
    identity = Identity({"factor": 0.0})
    slopes: Tensor

    def __init__(self, sizes: LayerSizes, *, factor: float = 1.0, learned: bool = False) -> None:
        super().__init__(sizes)
        slopes = factor * ALiBi.default_slopes(sizes.heads)
        if learned:
            self.slopes = nn.Parameter(slopes)
        else:
            self.register_buffer("slopes", slopes, persistent=False)

    def added(self, sizes: CallSizes) -> AttentionBias:
        """The slopes."""
        return ALiBi(self.slopes)
