"""xPos: rotary positions whose scores decay with the distance (Sun et al. 2022, "A Length-Extrapolatable Transformer")."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minitrans.attention.context import Context
from minitrans.attention.variant import Identity, LayerSizes
from minitrans.attention.variants.rotary import Rotary


class XPos(Rotary):
    """Rotary, and pair n of a query is multiplied by zeta_n^(i / span), of a key divided by it, zeta_n = (2n/K + 0.4) / 1.4.

    Made for causal models: to the right of a query scores grow as they decay to its left.

    Args:
        sizes: of the block.
        span: tokens over which the decay is counted.
        rotation: the options of `Rotary`.
    """

    name = "xpos"
    trial = {"span": 8.0}
    identity = Identity({"span": 1e13, "scaling": "linear", "factor": 1e12}, limit="span and factor to infinity")

    def __init__(self, sizes: LayerSizes, *, span: float = 512.0, **rotation: Any) -> None:
        super().__init__(sizes, **rotation)
        self.span = span

    def project(self, query: Tensor, key: Tensor, value: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys turned and scaled; values as they are."""
        assert context.positions is not None
        cos, sin = self.angles(context.positions, query)
        pairs = torch.arange(0, self.width, 2, dtype=torch.float64, device=query.device)
        zeta = (pairs / self.width + 0.4) / 1.4
        powers = (context.positions.double() / self.span).unsqueeze(-1).unsqueeze(-2 if query.dim() == 3 else -3)
        decay = (zeta**powers).to(query.dtype)
        return self.turn(query, cos * decay, sin * decay), self.turn(key, cos / decay, sin / decay), value
