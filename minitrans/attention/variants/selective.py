"""Selective attention (Leviathan et al. 2024): tokens decide what later ones need no longer see. Causal. O(n² K)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from minitrans.attention.bias import AttentionBias
from minitrans.attention.dense import DenseMechanism
from minitrans.attention.mask import AttentionMask
from minitrans.attention.variant import CallSizes, Identity, LayerSizes


class Selective(DenseMechanism):
    """s_ij less the sum over j < l < i of relu(s_lj) of the first head: what was selected against is masked for all heads.

    The first token of a text is never selected against, nor a token by itself (section 3). It makes the mask causal.

    Args:
        sizes: of the block.
        strength: factor of what is taken off; the paper's is 1.
    """

    name = "selective"
    identity = Identity({"strength": 0.0})  # of causal attention
    laws = ("rows sum to one", "linear in the values")
    whole_texts = True

    def __init__(self, sizes: LayerSizes, *, strength: float = 1.0) -> None:
        super().__init__(sizes)
        self.strength = strength

    def restrict(
        self, mask: AttentionMask, bias: AttentionBias | None, sizes: CallSizes
    ) -> tuple[AttentionMask, AttentionBias | None]:
        """The mask, causal; the bias unchanged."""
        sizes.require_whole(self.name)
        return replace(mask, causal=True), bias

    def weights(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """Rows of tokens that nobody may see, padding, select nothing."""
        real = allowed.diagonal(dim1=-2, dim2=-1)[..., None] if allowed.shape[-2] > 1 else allowed.transpose(-2, -1)
        selected = torch.relu(scores[:, :1].masked_fill(~(allowed & real)[:, :1], 0.0))  # (B, 1, T, S)
        selected = selected - torch.diag_embed(selected.diagonal(dim1=-2, dim2=-1))
        first = real.long().cumsum(-2).mT <= 1  # (B, 1, 1, S): the first real token, and what comes before it
        selected = selected.masked_fill(first[:, :1], 0.0)
        before = selected.cumsum(-2) - selected  # by the rows strictly before
        return torch.softmax(scores - self.strength * before, dim=-1)
