"""Sliding-window attention: each token sees its neighbours (Beltagy et al. 2020, "Longformer", section 3.1)."""

from __future__ import annotations

from dataclasses import replace

from minitrans.attention.bias import AttentionBias
from minitrans.attention.mask import AttentionMask
from minitrans.attention.variant import CallSizes, Identity, LayerSizes, Variant


class SlidingWindow(Variant):
    """|i - j| <= window // 2, so that a row sees window + 1 keys, as in the paper's code (L1).

    Args:
        sizes: of the block.
        window: even width in tokens, half to each side.
    """

    name = "sliding_window"
    trial = {"window": 2}
    identity = Identity({"window": 10**6})
    laws = ("rows sum to one", "linear in the values")

    def __init__(self, sizes: LayerSizes, *, window: int) -> None:
        super().__init__(sizes)
        if not isinstance(window, int) or window < 2 or window % 2:
            raise ValueError(f"window must be an even number of at least 2, got {window!r}")
        self.window = window

    def restrict(
        self, mask: AttentionMask, bias: AttentionBias | None, sizes: CallSizes
    ) -> tuple[AttentionMask, AttentionBias | None]:
        """The mask with the window added, or the tighter of the two windows; the bias unchanged."""
        half = self.window // 2
        left, right = mask.window or (None, None)
        tighter = (half if left is None else min(half, left), half if right is None else min(half, right))
        return replace(mask, window=tighter), bias
