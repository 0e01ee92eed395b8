"""float16 ends at 65,504, and pairs trained in wider types pass it: blocks that come back, a projection that stays wide."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from minitrans.attention.context import Context
from minitrans.layers.block import Block
from minitrans.layers.cache import LayerCache

MARGIN = 1000.0  # below the largest number, for what is added next


def clamped(x: Tensor, *, always: bool) -> Tensor:
    """x, in float16 within the largest number less a margin: always, or only where something is infinite."""
    if x.dtype != torch.float16:
        return x
    most = torch.finfo(x.dtype).max
    limit: Any = most - MARGIN if always else torch.where(x.isfinite().all(), most, most - MARGIN)
    return torch.clamp(x, min=-limit, max=limit)


class ClampedBlock(Block):
    """Each sum is brought back where something in it is infinite (T3)."""

    def _after(self, norm: nn.Module | None, x: Tensor) -> Tensor:
        return clamped(super()._after(norm, x), always=False)


class ClampedEnd(Block):
    """What leaves the block is: in a post-norm one where something is infinite, in a pre-norm one always (S2)."""

    def forward(self, x: Tensor, context: Context, cache: LayerCache | None = None) -> Tensor:
        """As of any block."""
        return clamped(super().forward(x, context, cache), always=self.norm_first)


class WideLinear(nn.Linear):
    """A projection that may be kept in float32 in a model of float16: what it is given follows its weight."""

    kept = torch.float32  # where the model is loaded in float16

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., F)."""
        return super().forward(x.to(self.weight.dtype))
