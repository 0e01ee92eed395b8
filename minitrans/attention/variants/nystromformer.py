"""Nyströmformer: softmax attention from landmarks, with an iterated pseudo-inverse (Xiong et al. 2021, equations 13 and 14).
O(n m K + m³)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from minitrans.attention.variant import Identity, LayerSizes
from minitrans.attention.whole import WholeMechanism, segments
from minitrans.errors import NotSupportedError


class Nystromformer(WholeMechanism):
    """softmax(q k̃ᵀ) · Z · softmax(q̃ kᵀ) v, Z the pseudo-inverse of softmax(q̃ k̃ᵀ), q̃ and k̃ means of m segments.

    Args:
        sizes: of the block.
        landmarks: m; a text of no more tokens has one each.
        iterations: of the pseudo-inverse.
        conv: odd width of a depthwise convolution of the values that is added to the output; zero at first; None = none.
    """

    name = "nystromformer"
    trial = {"landmarks": 3, "conv": 3}
    identity = Identity({"landmarks": 16, "iterations": 60}, tolerance=1e-6, limit="iterations to infinity")

    def __init__(self, sizes: LayerSizes, *, landmarks: int = 64, iterations: int = 6, conv: int | None = None) -> None:
        super().__init__(sizes)
        if landmarks < 1 or iterations < 1 or (conv is not None and conv % 2 == 0):
            raise ValueError(f"expected numbers of at least 1 and an odd conv, got {landmarks}, {iterations}, {conv}")
        self.landmarks, self.iterations = landmarks, iterations
        self.conv = None if conv is None else nn.Parameter(torch.zeros(sizes.heads, 1, conv, 1))

    def mix(self, query: Tensor, key: Tensor, value: Tensor, real: Tensor, scale: float) -> Tensor:
        """Three softmaxes."""
        if query.shape[2] != key.shape[2]:
            raise NotSupportedError(f"attention {self.name!r} does not support other keys than those of its queries")
        means = segments(real, self.landmarks, query.dtype)[:, None]  # (B, 1, m, T)
        q, k = means @ query.masked_fill(~real[:, None, :, None], 0.0), means @ key
        live = (means > 0).any(dim=-1)[:, :, None]  # (B, 1, 1, m)
        some = live | ~live.any(dim=-1, keepdim=True)
        to_landmarks = torch.softmax((query @ k.mT * scale).masked_fill(~some, -torch.inf), dim=-1)
        between = torch.softmax((q @ k.mT * scale).masked_fill(~some, -torch.inf), dim=-1)
        # landmarks that there are not are a block of their own, the identity, which the others do not see
        dead = torch.diag_embed((~live).squeeze(2).to(query.dtype))
        between = between.masked_fill(~(live & live.mT), 0.0) + dead
        hidden = ~(real | ~real.any(dim=1, keepdim=True))[:, None, None]
        from_landmarks = torch.softmax((q @ key.mT * scale).masked_fill(hidden, -torch.inf), dim=-1)
        output = to_landmarks @ (self.inverse(between) @ (from_landmarks @ value).masked_fill(~live.mT, 0.0))
        if self.conv is None:
            return output
        return output + conv2d(value, self.conv, padding=(self.conv.shape[2] // 2, 0), groups=self.conv.shape[0])

    def inverse(self, a: Tensor) -> Tensor:
        """(..., m, m): Newton-Schulz steps of third order, from a^T over the largest column sum (rows sum to one)."""
        eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
        z = a.mT / a.sum(dim=-2).amax(dim=-1)[..., None, None]
        for _ in range(self.iterations):
            az = a @ z
            z = z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az))) / 4
        return z
