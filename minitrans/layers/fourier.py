"""A mixer without parameters: tokens and columns are mixed by a Fourier transform. O(n log n · D)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minitrans.attention.context import Context
from minitrans.layers.cache import GrowingCache
from minitrans.layers.multi_head_attention import AttentionOutput


class FourierMixer(nn.Module):
    """The real part of the transform of x along the text and along the width (Lee-Thorp et al. 2021, equation 3).

    No mask is looked at: padding is mixed in like any token, as in the published models (FN1).
    """

    def forward(self, x: Tensor, context: Context, cache: GrowingCache | None = None) -> AttentionOutput:
        """(B, T, D) -> (B, T, D), in at least float32."""
        wide = x if x.dtype == torch.float64 else x.float()
        return AttentionOutput(torch.fft.fftn(wide, dim=(1, 2)).real.to(x.dtype))
