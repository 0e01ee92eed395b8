"""Forgetting attention (Lin et al. 2025, "Forgetting Transformer"): data-dependent penalties for distance. + O(n²)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import logsigmoid

from minitrans.attention.added_bias import AddedBias
from minitrans.attention.bias import AttentionBias, DenseBias
from minitrans.attention.variant import CallSizes, Identity, LayerSizes


class Forgetting(AddedBias):
    """score_ij + c_h times the sum of log f_l over the tokens from j to i, f_l = sigmoid(x_l w_h + b_h) a gate of each head.

    To the left of i these are j < l <= i, the paper's; to the right, in a bidirectional model, i <= l < j by a gate of
    their own. With constant gates that is symmetric ALiBi. The paper has c = 1; here it is learned, 0 at first, so that
    nothing is forgotten where a swap begins, and c has a gradient there; w and b are zero at first.

    Args:
        sizes: of the block.
        strength: c at first.
    """

    name = "forgetting"
    identity = Identity()
    whole_texts = True

    def __init__(self, sizes: LayerSizes, *, strength: float = 0.0) -> None:
        super().__init__(sizes)
        self.gate = nn.Linear(sizes.width, 2 * sizes.heads)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)
        self.strength = nn.Parameter(torch.full((2 * sizes.heads,), strength))  # c

    def added(self, sizes: CallSizes) -> AttentionBias:
        """What is forgotten."""
        sizes.require_whole(self.name)
        assert sizes.x is not None
        x = sizes.x if sizes.layout is None else sizes.x[None]
        kept = (self.strength * logsigmoid(self.gate(x))).transpose(1, 2)  # (B, 2 H, T)
        left, right = kept.cumsum(-1).chunk(2, dim=1)
        right = right - kept.chunk(2, dim=1)[1]  # what comes before a token
        behind = left[..., :, None] - left[..., None, :]  # (B, H, T, S): the gates of j + 1 .. i
        ahead = right[..., None, :] - right[..., :, None]  # those of i .. j - 1
        places = torch.arange(kept.shape[-1], device=kept.device)
        return DenseBias(torch.where(places[:, None] >= places, behind, ahead))
