"""Block-local attention: each token sees its own block, and perhaps those beside it (Qiu et al. 2020, "Blockwise"). O(n b K)."""

from __future__ import annotations

from torch import Tensor

from minitrans.attention.pattern import Pattern
from minitrans.attention.variant import Identity, LayerSizes


class Blocks(Pattern):
    """i sees j where |i // size - j // size| <= neighbours.

    Args:
        sizes: of the block.
        size: of a block, in tokens.
        neighbours: how many blocks to each side.
    """

    name = "blocks"
    trial = {"size": 2}
    identity = Identity({"size": 10**6})

    def __init__(self, sizes: LayerSizes, *, size: int = 64, neighbours: int = 0) -> None:
        super().__init__(sizes)
        if not isinstance(size, int) or size < 1 or not isinstance(neighbours, int) or neighbours < 0:
            raise ValueError(
                f"expected a size of at least 1 and neighbours of at least 0, got {size!r}, {neighbours!r}"
            )
        self.size, self.neighbours = size, neighbours

    def allows(self, i: Tensor, j: Tensor, n: Tensor) -> Tensor:
        """The block, and those beside it."""
        return (i // self.size - j // self.size).abs() <= self.neighbours
