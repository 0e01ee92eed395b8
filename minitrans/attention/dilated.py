"""Dilated sliding-window attention: a window with gaps reaches further for the same cost (Beltagy et al. 2020, section 3.1)."""

from __future__ import annotations

from minitrans.attention.bias import AttentionBias
from minitrans.attention.mask import AttentionMask, MaskRule
from minitrans.attention.variant import CallSizes, LayerSizes, Variant


class Dilated(Variant):
    """i sees j where i - j is a multiple of `dilation` and |i - j| <= dilation · window // 2: window + 1 keys a row.

    Args:
        sizes: of the block.
        window: even number of keys besides the token itself, half to each side; None = as far as the text goes.
        dilation: the step from one key to the next.
    """

    name = "dilated"

    def __init__(self, sizes: LayerSizes, *, window: int | None = None, dilation: int = 2) -> None:
        super().__init__(sizes)
        if window is not None and (not isinstance(window, int) or window < 2 or window % 2):
            raise ValueError(f"window must be an even number of at least 2, got {window!r}")
        if not isinstance(dilation, int) or dilation < 1:
            raise ValueError(f"dilation must be a number of at least 1, got {dilation!r}")
        self.window, self.dilation = window, dilation

    def restrict(
        self, mask: AttentionMask, bias: AttentionBias | None, sizes: CallSizes
    ) -> tuple[AttentionMask, AttentionBias | None]:
        """The mask with the rule of the distances; the bias unchanged."""
        step = self.dilation
        reach = max(sizes.queries, sizes.keys) if self.window is None else step * (self.window // 2)
        rule = MaskRule(lambda b, h, i, j: ((i - j) % step == 0) & ((i - j).abs() <= reach))
        return mask.narrowed(rule), bias
