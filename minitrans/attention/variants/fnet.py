"""FNet: tokens are mixed by a Fourier transform (Lee-Thorp et al. 2021, equation 3). O(n log n D), padded O(n² D)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minitrans.attention.variant import LayerSizes
from minitrans.attention.whole import WholeMechanism
from minitrans.errors import NotSupportedError


class FNet(WholeMechanism):
    """The real part of the transform of the values along the text and along the width of all heads together.

    The paper transforms x itself; here the projections of values and output stay around it. Of a padded text the
    transform is that of its tokens alone.

    Args:
        sizes: of the block.
        scaled: divide by √(n D), which keeps lengths; the paper's is not.
    """

    name = "fnet"

    def __init__(self, sizes: LayerSizes, *, scaled: bool = False) -> None:
        super().__init__(sizes)
        self.scaled = scaled

    def mix(self, query: Tensor, key: Tensor, value: Tensor, real: Tensor, scale: float) -> Tensor:
        """By a fast transform, or, where there is padding, by the matrix of each text."""
        if query.shape[2] != key.shape[2]:
            raise NotSupportedError(f"attention {self.name!r} does not support other keys than those of its queries")
        wide = value if value.dtype == torch.float64 else value.float()
        x = wide.transpose(1, 2).flatten(-2)  # (B, T, H K)
        length = real.sum(dim=1)
        if bool(real.all()):
            mixed = torch.fft.fft2(x).real
        else:
            rank = (real.long().cumsum(1) - 1).clamp(min=0)
            turns = (rank[:, :, None] * rank[:, None, :]).to(x.dtype) / length.clamp(min=1)[:, None, None]
            seen = (real[:, :, None] & real[:, None, :]).to(x.dtype)
            across = torch.fft.fft(x)
            mixed = (seen * (2 * math.pi * turns).cos()) @ across.real + (
                seen * (2 * math.pi * turns).sin()
            ) @ across.imag
        if self.scaled:
            mixed = mixed / (length.clamp(min=1).to(x.dtype)[:, None, None] * x.shape[-1]).sqrt()
        return torch.unflatten(mixed, -1, (value.shape[1], -1)).transpose(1, 2).to(value.dtype)
