"""Dilated sliding-window attention: a window with gaps reaches further (Beltagy et al. 2020, section 3.1). O(n w K)."""

from __future__ import annotations

from torch import Tensor

from minitrans.attention.pattern import Pattern
from minitrans.attention.variant import Identity, LayerSizes


class Dilated(Pattern):
    """i sees j where i - j is a multiple of `dilation` and |i - j| <= dilation · window // 2: window + 1 keys a row.

    Args:
        sizes: of the block.
        window: even number of keys besides the token itself, half to each side; None = as far as the text goes.
        dilation: the step from one key to the next.
    """

    name = "dilated"
    trial = {"window": 4, "dilation": 2}
    identity = Identity({"dilation": 1})

    def __init__(self, sizes: LayerSizes, *, window: int | None = None, dilation: int = 2) -> None:
        super().__init__(sizes)
        if window is not None and (not isinstance(window, int) or window < 2 or window % 2):
            raise ValueError(f"window must be an even number of at least 2, got {window!r}")
        if not isinstance(dilation, int) or dilation < 1:
            raise ValueError(f"dilation must be a number of at least 1, got {dilation!r}")
        self.window, self.dilation = window, dilation

    def allows(self, i: Tensor, j: Tensor, n: Tensor) -> Tensor:
        """Multiples of the step, no further than the window."""
        on_the_grid = (i - j) % self.dilation == 0
        if self.window is None:
            return on_the_grid
        return on_the_grid & ((i - j).abs() <= self.dilation * (self.window // 2))
