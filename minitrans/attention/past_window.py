"""The window of decoders: a token sees itself and so many before it (Jiang et al. 2023, "Mistral 7B", section 2)."""

from __future__ import annotations

from dataclasses import replace

import torch

from minitrans.attention.bias import AttentionBias
from minitrans.attention.mask import AttentionMask
from minitrans.attention.variant import CallSizes, LayerSizes, Variant


class PastWindow(Variant):
    """i - j < window, on the left alone: what is on the right is the business of the causal mask.

    Args:
        sizes: of the block.
        window: tokens that one sees, itself among them.
    """

    name = "past_window"
    fits_static = True

    def __init__(self, sizes: LayerSizes, window: int) -> None:
        super().__init__(sizes)
        self.window = window

    def restrict(
        self, mask: AttentionMask, bias: AttentionBias | None, sizes: CallSizes
    ) -> tuple[AttentionMask, AttentionBias | None]:
        """The mask with the window added, or the tighter of the two; the bias unchanged."""
        if sizes.first is not None:
            queries = torch.arange(sizes.first, sizes.first + sizes.queries, device=sizes.device)
            near = (queries[:, None] - torch.arange(sizes.keys, device=sizes.device) < self.window)[None, None]
            return replace(mask, dense=near if mask.dense is None else mask.dense & near), bias
        left, right = mask.window or (None, None)
        mine = self.window - 1
        return replace(mask, window=(mine if left is None else min(left, mine), right)), bias
