"""Prefix attention: a prefix sees itself in both directions, what follows is causal (Raffel et al. 2020, "T5", section 3.2.1)."""

from __future__ import annotations

from torch import Tensor

from minitrans.attention.pattern import Pattern
from minitrans.attention.variant import Identity, LayerSizes


class Prefix(Pattern):
    """i sees j where j <= i or j stands in the prefix; in a bidirectional model, a causal one is narrowed no further.

    Args:
        sizes: of the block.
        prefix: its length in tokens; 0 = causal.
    """

    name = "prefix"
    trial = {"prefix": 2}
    identity = Identity({"prefix": 10**6})

    def __init__(self, sizes: LayerSizes, *, prefix: int = 0) -> None:
        super().__init__(sizes)
        if not isinstance(prefix, int) or prefix < 0:
            raise ValueError(f"prefix must be a number of at least 0, got {prefix!r}")
        self.prefix = prefix

    def allows(self, i: Tensor, j: Tensor, n: Tensor) -> Tensor:
        """The past and the prefix."""
        return (j <= i) | (j < self.prefix)
